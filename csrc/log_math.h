// Sums of probabilities that are kept as natural logarithms.
#pragma once

#include <cmath>
#include <limits>

namespace voxformer {

inline constexpr double kLogZero = -std::numeric_limits<double>::infinity();

// ln(e^a + e^b). Symmetric in its arguments to the last bit, so that the order in which the search
// meets two halves of a prefix never changes its score.
inline double LogAdd(double a, double b) noexcept {
  const double high = a > b ? a : b;
  const double low = a > b ? b : a;
  if (low == kLogZero) return high;
  return high + std::log1p(std::exp(low - high));
}

}  // namespace voxformer
