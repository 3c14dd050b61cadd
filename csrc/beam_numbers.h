// The two kinds of numbers that the prefix beam search counts masses in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "fast_exp.h"
#include "log_math.h"

namespace voxformer {

// Limits of what is computed with probabilities. A product of a mass and two log-probs within these
// stays far from both ends of double precision: 1e-20 * 1e-120 * e^-100 * e^-100 * e^-50 > 1e-249.
constexpr double kLargestLogProb = 100.0;
constexpr double kLargestBonus = 50.0;

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
  double low = 0.0;
  double high = 0.0;
  for (std::size_t i = 0; i < size; ++i) {
    low = std::min(low, log_probs[i]);
    high = std::max(high, log_probs[i]);
  }
  if (high > kLargestLogProb) return false;
  if (low >= -kLargestLogProb) {
    FastExp(log_probs.data(), size, weights->data());
    return true;
  }
  for (std::size_t i = 0; i < size; ++i) {
    if (log_probs[i] == kLogZero) {
      (*weights)[i] = 0.0;
    } else if (log_probs[i] >= -kLargestLogProb) {
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

// A float just below `value`, at most two steps off; the lowest finite one where none is below.
inline float FloatBelow(double value) noexcept {
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  if (!(value > static_cast<double>(kLowest))) return kLowest;
  const float nearest =
      static_cast<float>(std::min(value, static_cast<double>(std::numeric_limits<float>::max())));
  return std::nextafter(nearest, kLowest);
}

}  // namespace voxformer
