#include "ctc_alignment.h"

#include <algorithm>
#include <cmath>

#include "log_math.h"

namespace voxformer {

// State 2k is the blank before token k (the last one after all tokens), state 2k + 1 is token k.
bool CtcAligner::BestPath(LogProbs log_probs, std::int64_t blank_id,
                          const std::vector<std::int32_t>& token_ids) {
  const std::size_t num_frames = log_probs.rows();
  const std::size_t num_states = 2 * token_ids.size() + 1;
  const std::size_t blank = static_cast<std::size_t>(blank_id);
  const auto column = [&](std::size_t state) {
    return state % 2 == 0 ? blank : static_cast<std::size_t>(token_ids[state / 2]);
  };
  score_.assign(num_states, kLogZero);
  previous_.assign(num_states, kLogZero);
  step_.assign(num_frames * num_states, 0);
  path_.resize(num_frames);

  for (std::size_t state = 0; state < std::min<std::size_t>(2, num_states); ++state) {
    score_[state] = static_cast<double>(log_probs(0, column(state)));
  }
  for (std::size_t t = 1; t < num_frames; ++t) {
    previous_.swap(score_);
    for (std::size_t state = 0; state < num_states; ++state) {
      double best = previous_[state];
      std::uint8_t step = 0;
      if (state >= 1 && previous_[state - 1] > best) {
        best = previous_[state - 1];
        step = 1;
      }
      const bool may_skip_blank =
          state >= 3 && state % 2 == 1 && token_ids[state / 2] != token_ids[state / 2 - 1];
      if (may_skip_blank && previous_[state - 2] > best) {
        best = previous_[state - 2];
        step = 2;
      }
      score_[state] = best + static_cast<double>(log_probs(t, column(state)));
      step_[t * num_states + state] = step;
    }
  }

  std::size_t state = num_states - 1;
  if (num_states > 1 && score_[state - 1] >= score_[state]) --state;
  if (score_[state] == kLogZero) return false;
  for (std::size_t t = num_frames; t-- > 0;) {
    path_[t] = static_cast<std::uint32_t>(state);
    state -= step_[t * num_states + state];
  }
  return true;
}

void CtcAligner::Align(LogProbs log_probs, std::int64_t blank_id, Hypothesis* hypothesis) {
  const std::vector<std::int32_t>& token_ids = hypothesis->token_ids;
  hypothesis->timesteps.clear();
  hypothesis->token_confidences.clear();
  hypothesis->confidence = 0.0;
  if (log_probs.rows() == 0) {
    // Nothing was said and nothing could have been.
    hypothesis->confidence = token_ids.empty() ? 1.0 : 0.0;
    return;
  }
  if (!BestPath(log_probs, blank_id, token_ids)) return;

  double sum = 0.0;
  if (token_ids.empty()) {
    for (std::size_t t = 0; t < log_probs.rows(); ++t) {
      sum += static_cast<double>(log_probs(t, static_cast<std::size_t>(blank_id)));
    }
    hypothesis->confidence = std::min(1.0, std::exp(sum / static_cast<double>(log_probs.rows())));
    return;
  }
  hypothesis->timesteps.assign(token_ids.size(), -1);
  for (std::size_t t = 0; t < log_probs.rows(); ++t) {
    if (path_[t] % 2 == 0) continue;
    const std::size_t k = path_[t] / 2;
    const std::size_t column = static_cast<std::size_t>(token_ids[k]);
    std::int64_t& peak = hypothesis->timesteps[k];
    if (peak < 0 || log_probs(t, column) > log_probs(static_cast<std::size_t>(peak), column)) {
      peak = static_cast<std::int64_t>(t);
    }
  }
  for (std::size_t k = 0; k < token_ids.size(); ++k) {
    const double log_prob = std::min(
        0.0, static_cast<double>(log_probs(static_cast<std::size_t>(hypothesis->timesteps[k]),
                                           static_cast<std::size_t>(token_ids[k]))));
    hypothesis->token_confidences.push_back(std::exp(log_prob));
    sum += log_prob;
  }
  hypothesis->confidence = std::exp(sum / static_cast<double>(token_ids.size()));
}

}  // namespace voxformer
