// When a hypothesis' tokens were spoken, and how sure the model was.
#pragma once

#include <cstdint>
#include <vector>

#include "hypothesis.h"
#include "span.h"

namespace voxformer {

// Viterbi alignment of a token sequence to CTC log-probs (the best path through the lattice of
// Graves et al. 2006, figure 3). Keeps its buffers from one call to the next.
class CtcAligner {
 public:
  // Fills timesteps, token_confidences and confidence of `hypothesis`, whose tokens must have an
  // alignment in `log_probs` [time, vocab]; otherwise they stay empty and confidence is 0. Where
  // two alignments are equally good, tokens last longer.
  void Align(LogProbs log_probs, std::int64_t blank_id, Hypothesis* hypothesis);

 private:
  bool BestPath(LogProbs log_probs, std::int64_t blank_id,
                const std::vector<std::int32_t>& token_ids);

  std::vector<double> score_;
  std::vector<double> previous_;
  std::vector<std::uint8_t> step_;   // [time, states]: how many states back the path came from
  std::vector<std::uint32_t> path_;  // [time]: the state at each frame
};

}  // namespace voxformer
