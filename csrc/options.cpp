#include "options.h"

#include <cmath>
#include <sstream>
#include <stdexcept>

namespace voxformer {
namespace {

template <typename T>
[[noreturn]] void Refuse(const char* field, T value, const char* rule) {
  std::ostringstream message;
  message << field << " is " << value << "; it must be " << rule;
  throw std::invalid_argument(message.str());
}

void CheckBeam(std::int64_t beam_size, std::int64_t n_best) {
  // The upper limit keeps an index of the beam in 32 bits.
  if (beam_size < 1 || beam_size > (std::int64_t{1} << 24)) {
    Refuse("beam_size", beam_size, "from 1 to 16777216");
  }
  if (n_best < 1) Refuse("n_best", n_best, "at least 1");
  if (n_best > beam_size) {
    std::ostringstream message;
    message << "n_best is " << n_best << ", more than beam_size " << beam_size
            << "; a search cannot return more hypotheses than it keeps";
    throw std::invalid_argument(message.str());
  }
}

void CheckFinite(const char* field, double value) {
  if (!std::isfinite(value)) Refuse(field, value, "finite");
}

void CheckLength(double length_bonus, double length_penalty) {
  CheckFinite("length_bonus", length_bonus);
  CheckFinite("length_penalty", length_penalty);
}

void CheckRepetition(double repetition_penalty) {
  if (!std::isfinite(repetition_penalty) || repetition_penalty <= 0.0) {
    Refuse("repetition_penalty", repetition_penalty, "finite and above 0 (1 is off)");
  }
}

}  // namespace

void CtcBeamOptions::Validate() const {
  CheckBeam(beam_size, n_best);
  if (blank_id < 0) Refuse("blank_id", blank_id, "0 or more");
  CheckLength(length_bonus, length_penalty);
  if (!(beam_threshold > 0.0)) Refuse("beam_threshold", beam_threshold, "above 0");
  if (prefixes_per_state < 0) Refuse("prefixes_per_state", prefixes_per_state, "at least 0");
  if (!(token_min_log_prob <= 0.0)) {
    Refuse("token_min_log_prob", token_min_log_prob, "at most 0");
  }
}

void AttentionOptions::Validate() const {
  CheckBeam(beam_size, n_best);
  CheckLength(length_bonus, length_penalty);
  CheckRepetition(repetition_penalty);
  if (no_repeat_ngram < 0) Refuse("no_repeat_ngram", no_repeat_ngram, "0 (off) or more");
}

void RescoringOptions::Validate() const {
  if (!(ctc_weight >= 0.0 && ctc_weight <= 1.0)) {
    Refuse("ctc_weight", ctc_weight, "from 0 to 1");
  }
  CheckFinite("lm_weight", lm_weight);
  CheckLength(length_bonus, length_penalty);
  CheckRepetition(repetition_penalty);
}

}  // namespace voxformer
