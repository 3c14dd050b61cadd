// How the prefix beam search goes from probabilities to logarithms and back.
#include <algorithm>
#include <cmath>

#include "beam_numbers.h"
#include "ctc_prefix_beam_search.h"
#include "log_math.h"

namespace voxformer {
namespace {

constexpr double kLn2 = 0.69314718055994530942;
constexpr double kFarthest = 1e12;  // largest logarithm of a mass

}  // namespace

double CtcPrefixBeamSearch::Offset() const noexcept {
  return static_cast<double>(exponent_) * kLn2;
}

// Brings the best mass back to about 1, by a power of two and so without rounding.
void CtcPrefixBeamSearch::Rescale() {
  const int exponent = std::ilogb(best_);
  const double factor = std::ldexp(1.0, -exponent);
  for (std::size_t i = 0; i < beam_.size; ++i) {
    beam_.total[i] *= factor;
    beam_.blank[i] *= factor;
    beam_.non_blank[i] *= factor;
  }
  best_ *= factor;
  least_ *= factor;
  exponent_ += exponent;
}

// Whether probabilities can hold the beam of logarithms.
bool CtcPrefixBeamSearch::Narrow() const noexcept {
  const double lowest = best_ + std::log(kWidest);
  for (std::size_t i = 0; i < beam_.size; ++i) {
    if (beam_.total[i] < lowest) return false;
    if (beam_.blank[i] < lowest && beam_.blank[i] != kLogZero) return false;
    if (std::fabs(beam_.log_gain[i]) > kLargestBonus) return false;
  }
  // So far off, a logarithm has lost what distinguishes the prefixes, and the exponent its range.
  return beam_.size > 0 && std::fabs(best_) < kFarthest &&
         std::fabs(largest_gain_) <= kLargestBonus;
}

void CtcPrefixBeamSearch::ToLogarithms() {
  const double offset = Offset();
  for (std::size_t i = 0; i < beam_.size; ++i) {
    beam_.total[i] = std::log(beam_.total[i]) + offset;
    beam_.blank[i] = std::log(beam_.blank[i]) + offset;
    beam_.non_blank[i] =
        beam_.non_blank[i] > 0.0 ? std::log(beam_.non_blank[i]) + offset : beam_.faint[i];
    beam_.faint[i] = kLogZero;
  }
  best_ = std::log(best_) + offset;
  least_ = std::log(least_) + offset;
  exponent_ = 0;
  logarithms_ = true;
  frames_in_logarithms_ = 0;
}

void CtcPrefixBeamSearch::ToProbabilities() {
  exponent_ = static_cast<std::int64_t>(std::floor(best_ / kLn2));
  const double offset = Offset();
  for (std::size_t i = 0; i < beam_.size; ++i) {
    beam_.total[i] = std::exp(beam_.total[i] - offset);
    beam_.blank[i] = std::exp(beam_.blank[i] - offset);
    const double non_blank = std::exp(beam_.non_blank[i] - offset);
    beam_.faint[i] = non_blank >= kFaint ? kLogZero : beam_.non_blank[i];
    beam_.non_blank[i] = non_blank >= kFaint ? non_blank : 0.0;
  }
  best_ = std::exp(best_ - offset);
  least_ = std::exp(least_ - offset);
  logarithms_ = false;
}

}  // namespace voxformer
