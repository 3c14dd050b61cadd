// The two kinds of numbers that the prefix beam search counts masses in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "fast_exp.h"
#include "log_math.h"

namespace voxformer {

// Limits of what is computed with probabilities. A product of a mass and two log-probs within these
// stays far from both ends of double precision: 1e-20 * 1e-120 * e^-100 * e^-100 * e^-50 > 1e-249.
constexpr double kLargestLogProb = 100.0;
constexpr double kLargestBonus = 50.0;
constexpr double kWidest = 1e-120;  // least over largest total of the beam
constexpr double kFaint = 1e-290;   // below it a mass is kept as a logarithm

struct Probabilities {
  static constexpr bool kLogarithms = false;
  static constexpr double kZero = 0.0;
  static double Times(double a, double b) noexcept { return a * b; }
  static double Plus(double a, double b) noexcept { return a + b; }
};

struct Logarithms {
  static constexpr bool kLogarithms = true;
  static constexpr double kZero = kLogZero;
  static double Times(double a, double b) noexcept { return a + b; }
  static double Plus(double a, double b) noexcept { return LogAdd(a, b); }
};

// e^x for every x in +-kLargestLogProb or -inf; false where there is another.
inline bool Weights(const std::vector<double>& log_probs, std::size_t size,
                    std::vector<double>* weights) {
  bool moderate = true;
  for (std::size_t i = 0; i < size; ++i) moderate &= std::fabs(log_probs[i]) <= kLargestLogProb;
  if (moderate) {
    FastExp(log_probs.data(), size, weights->data());
    return true;
  }
  for (std::size_t i = 0; i < size; ++i) {
    if (log_probs[i] == kLogZero) {
      (*weights)[i] = 0.0;
    } else if (std::fabs(log_probs[i]) <= kLargestLogProb) {
      (*weights)[i] = FastExp(log_probs[i]);
    } else {
      return false;
    }
  }
  return true;
}

// e^log_gain, where that is within what is computed with probabilities.
inline double Factor(double log_gain) noexcept {
  return FastExp(std::clamp(log_gain, -kLargestBonus, kLargestBonus));
}

// At most ln x of a normal x > 0, and less by at most 0.06: the exponent, and the mantissa for its
// logarithm, which it never exceeds (Mitchell 1962).
inline double LogBelow(double x) noexcept {
  constexpr std::int64_t kOne = std::int64_t{1023} << 52;  // the bits of 1.0
  constexpr double kLn2OverTwoTo52 = 0x1.62e42fefa39efp-53;
  std::int64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<double>(bits - kOne) * kLn2OverTwoTo52;
}

// A float below `value` by at least a millionth, the lowest finite one where none is.
inline float FloatBelow(double value) noexcept {
  constexpr double kMost = std::numeric_limits<float>::max();
  // A float is within 2^-24 of a double that it stands for.
  const double below = value - 1e-6 * (1.0 + std::fabs(value));
  if (!(below > -kMost)) return std::numeric_limits<float>::lowest();
  return static_cast<float>(std::min(below, kMost));
}

}  // namespace voxformer
