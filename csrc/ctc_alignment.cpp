#include "ctc_alignment.h"

#include <algorithm>
#include <cmath>

#include "log_math.h"

namespace voxformer {

void CtcAligner::Start(const CtcLogProbs& log_probs, std::int64_t blank_id,
                       Span<const float> row_maxima) {
  log_probs_ = log_probs;
  blank_ = static_cast<std::size_t>(blank_id);
  rest_.resize(log_probs.rows() + 1);
  rest_.back() = 0.0;
  for (std::size_t t = log_probs.rows(); t-- > 0;) {
    rest_[t] = rest_[t + 1] + static_cast<double>(row_maxima[t]);
  }
}

// A path is worth no more than the sum over all of them, and the best one as a rule little less.
bool CtcAligner::BestPath(const Hypothesis& hypothesis) {
  if (rest_[0] == kLogZero) return false;
  const double highest = hypothesis.ctc_score.value_or(rest_[0]);
  for (double margin = 4.0; margin < 1e6; margin *= 4.0) {
    if (PathAbove(highest - margin, hypothesis.token_ids)) return true;
  }
  return PathAbove(kLogZero, hypothesis.token_ids);
}

// State 2k is the blank before token k (the last one after all tokens), state 2k + 1 is token k.
// False where no path has a score of `lowest` or more.
bool CtcAligner::PathAbove(double lowest, const std::vector<std::int32_t>& token_ids) {
  const std::size_t num_frames = log_probs_.rows();
  const std::size_t num_states = 2 * token_ids.size() + 1;
  // The bound adds in another order than the scores.
  lowest -= 1e-9 * (1.0 + std::fabs(rest_[0]));
  score_.assign(num_states, kLogZero);
  bands_.resize(num_frames);
  steps_.clear();
  path_.resize(num_frames);

  std::size_t first = 0;
  std::size_t end = std::min<std::size_t>(2, num_states);
  for (std::size_t t = 0; t < num_frames; ++t) {
    if (t > 0) end = std::min(end + 2, num_states);
    bands_[t] = {first, steps_.size()};
    steps_.resize(steps_.size() + end - first);
    std::uint8_t* const steps = steps_.data() + bands_[t].first_step;
    const double blank = static_cast<double>(log_probs_.At(t, blank_));
    // From the last state down: a path comes from the same state or the two before it.
    for (std::size_t state = end; state-- > first;) {
      const std::size_t k = state / 2;
      const bool is_blank = state % 2 == 0;
      const double log_prob =
          is_blank ? blank
                   : static_cast<double>(log_probs_.At(t, static_cast<std::size_t>(token_ids[k])));
      if (t == 0) {
        score_[state] = log_prob;
        continue;
      }
      double best = score_[state];
      std::uint8_t step = 0;
      if (state >= 1 && score_[state - 1] > best) {
        best = score_[state - 1];
        step = 1;
      }
      const bool may_skip_blank = !is_blank && k >= 1 && token_ids[k] != token_ids[k - 1];
      if (may_skip_blank && score_[state - 2] > best) {
        best = score_[state - 2];
        step = 2;
      }
      score_[state] = best + log_prob;
      steps[state - first] = step;
    }
    const double needed = lowest - rest_[t + 1];
    while (end > first && !(score_[end - 1] >= needed && score_[end - 1] != kLogZero)) {
      score_[--end] = kLogZero;
    }
    while (first < end && !(score_[first] >= needed && score_[first] != kLogZero)) {
      score_[first++] = kLogZero;
    }
    if (first == end) return false;
  }

  if (end != num_states && end + 1 != num_states) return false;
  std::size_t state = num_states - 1;
  if (num_states > 1 && score_[state - 1] >= score_[state]) --state;
  if (score_[state] == kLogZero) return false;
  for (std::size_t t = num_frames; t-- > 0;) {
    path_[t] = static_cast<std::uint32_t>(state);
    state -= steps_[bands_[t].first_step + state - bands_[t].first_state];
  }
  return true;
}

void CtcAligner::Align(Hypothesis* hypothesis) {
  const std::vector<std::int32_t>& token_ids = hypothesis->token_ids;
  hypothesis->timesteps.clear();
  hypothesis->token_starts.clear();
  hypothesis->token_ends.clear();
  hypothesis->token_confidences.clear();
  hypothesis->confidence = 0.0;
  if (log_probs_.rows() == 0) {
    // Nothing was said and nothing could have been.
    hypothesis->confidence = token_ids.empty() ? 1.0 : 0.0;
    return;
  }
  if (!BestPath(*hypothesis)) return;

  double sum = 0.0;
  if (token_ids.empty()) {
    for (std::size_t t = 0; t < log_probs_.rows(); ++t) {
      sum += static_cast<double>(log_probs_.At(t, blank_));
    }
    hypothesis->confidence = std::min(1.0, std::exp(sum / static_cast<double>(log_probs_.rows())));
    return;
  }
  hypothesis->timesteps.assign(token_ids.size(), -1);
  hypothesis->token_starts.resize(token_ids.size());
  hypothesis->token_ends.resize(token_ids.size());
  for (std::size_t t = 0; t < log_probs_.rows(); ++t) {
    if (path_[t] % 2 == 0) continue;
    const std::size_t k = path_[t] / 2;
    const std::size_t column = static_cast<std::size_t>(token_ids[k]);
    std::int64_t& peak = hypothesis->timesteps[k];
    if (peak < 0) hypothesis->token_starts[k] = static_cast<std::int64_t>(t);
    hypothesis->token_ends[k] = static_cast<std::int64_t>(t + 1);
    if (peak < 0 ||
        log_probs_.At(t, column) > log_probs_.At(static_cast<std::size_t>(peak), column)) {
      peak = static_cast<std::int64_t>(t);
    }
  }
  for (std::size_t k = 0; k < token_ids.size(); ++k) {
    const double log_prob = std::min(
        0.0, static_cast<double>(log_probs_.At(static_cast<std::size_t>(hypothesis->timesteps[k]),
                                               static_cast<std::size_t>(token_ids[k]))));
    hypothesis->token_confidences.push_back(std::exp(log_prob));
    sum += log_prob;
  }
  hypothesis->confidence = std::exp(sum / static_cast<double>(token_ids.size()));
}

}  // namespace voxformer
