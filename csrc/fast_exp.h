// e^x of many values at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace voxformer {

// e^x to within 2 units in the last place, for |x| <= 700. Written so that a compiler vectorises it
// over an array and every instruction set gives the same bits: no table, no branch, and no fused
// multiply-add (the build forbids contraction). Cody and Waite's reduction to |r| <= ln(2)/2, then
// Taylor's series, whose remainder there is below 2^-57.
inline double FastExp(double x) noexcept {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 6.93147180369123816490e-01;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double shifted = x * kLog2E + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double series = 1.0 / 6227020800.0;
  series = series * r + 1.0 / 479001600.0;
  series = series * r + 1.0 / 39916800.0;
  series = series * r + 1.0 / 3628800.0;
  series = series * r + 1.0 / 362880.0;
  series = series * r + 1.0 / 40320.0;
  series = series * r + 1.0 / 5040.0;
  series = series * r + 1.0 / 720.0;
  series = series * r + 1.0 / 120.0;
  series = series * r + 1.0 / 24.0;
  series = series * r + 1.0 / 6.0;
  series = series * r + 0.5;
  series = series * r + 1.0;
  series = series * r + 1.0;
  std::uint64_t exponent;
  std::uint64_t bits;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits, &series, sizeof bits);
  bits += exponent << 52;  // n is in the low bits of `shifted`
  std::memcpy(&series, &bits, sizeof series);
  return series;
}

inline void FastExp(const double* x, std::size_t size, double* result) noexcept {
  for (std::size_t i = 0; i < size; ++i) result[i] = FastExp(x[i]);
}

}  // namespace voxformer
