// When a hypothesis' tokens were spoken, and how sure the model was.
#pragma once

#include <cstdint>
#include <vector>

#include "ctc_log_probs.h"
#include "hypothesis.h"
#include "span.h"

namespace voxformer {

// Viterbi alignment of token sequences to CTC log-probs (the best path through the lattice of
// Graves et al. 2006, figure 3). Keeps its buffers from one utterance to the next.
//
// Only states that can lie on a path of a given score are visited: those whose best beginning plus
// the maxima of the frames to come reach it. Where no path has that score it is lowered, so that
// the result is the best of all paths. Time and memory then grow with the frames and not with
// frames times tokens, unless the model is at a loss throughout.
class CtcAligner {
 public:
  // The log-probs [time, vocab] that Align() refers to, and the maximum of each row.
  void Start(const CtcLogProbs& log_probs, std::int64_t blank_id, Span<const float> row_maxima);

  // Fills the frames, token_confidences and confidence of `hypothesis`, whose tokens must have an
  // alignment; otherwise they stay empty and confidence is 0. Where two alignments are equally
  // good, tokens last longer. A ctc_score, where there is one, says where to begin looking.
  void Align(Hypothesis* hypothesis);

 private:
  bool BestPath(const Hypothesis& hypothesis);
  bool PathAbove(double lowest, const std::vector<std::int32_t>& token_ids);

  struct Band {
    std::size_t first_state;
    std::size_t first_step;  // in steps_
  };

  CtcLogProbs log_probs_;
  std::size_t blank_ = 0;
  std::vector<double> rest_;         // [time + 1]: sum of the row maxima from a frame on
  std::vector<double> score_;        // [states]: of the best path to each; -inf outside the band
  std::vector<Band> bands_;          // [time]
  std::vector<std::uint8_t> steps_;  // how many states back the path came from
  std::vector<std::uint32_t> path_;  // [time]: the state at each frame
};

}  // namespace voxformer
