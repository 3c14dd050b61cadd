// e^x of many values at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace voxformer {

// 2^(i/32), the nearest doubles.
inline constexpr double kPowersOfTwo[32] = {
    0x1.0000000000000p+0, 0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0,
    0x1.172b83c7d517bp+0, 0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0,
    0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0, 0x1.3dea64c123422p+0, 0x1.44e086061892dp+0,
    0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0, 0x1.6247eb03a5585p+0,
    0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
    0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f090p+0, 0x1.a5503b23e255dp+0,
    0x1.ae89f995ad3adp+0, 0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0,
    0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0, 0x1.ea4afa2a490dap+0, 0x1.f50765b6e4540p+0,
};

// e^x to within 2 units in the last place, for |x| <= 700, with the same bits on every machine: no
// branch and no fused multiply-add (the build forbids contraction). A table of 2^(i/32) leaves
// |r| <= ln(2)/64 to Taylor's series (Tang 1989), whose remainder there is below 2^-57.
inline double FastExp(double x) noexcept {
  constexpr double kStepsPerUnit = 46.16624130844683;  // 32 / ln 2
  constexpr double kStepHigh = 0x1.62e42fee00000p-6;   // ln(2) / 32
  constexpr double kStepLow = 0x1.a39ef35793c76p-38;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double shifted = x * kStepsPerUnit + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kStepHigh) - n * kStepLow;
  std::uint64_t steps;  // n is in its low bits
  std::memcpy(&steps, &shifted, sizeof steps);
  std::uint64_t bits;
  std::memcpy(&bits, &kPowersOfTwo[steps % 32], sizeof bits);
  bits += (steps / 32) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  const double r2 = r * r;
  const double third = (1.0 / 24.0 + r * (1.0 / 120.0)) + r2 * (1.0 / 720.0);
  const double series = r + r2 * ((0.5 + r * (1.0 / 6.0)) + r2 * third);
  return power + power * series;
}

inline void FastExp(const double* x, std::size_t size, double* result) noexcept {
  for (std::size_t i = 0; i < size; ++i) result[i] = FastExp(x[i]);
}

}  // namespace voxformer
