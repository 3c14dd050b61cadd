// When a hypothesis' tokens were spoken, and how sure the model was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ctc_log_probs.h"
#include "hypothesis.h"
#include "span.h"

namespace voxformer {

// Viterbi alignment of token sequences to CTC log-probs (the best path through the lattice of
// Graves et al. 2006, figure 3). Keeps its buffers from one utterance to the next.
//
// The hypotheses of an utterance differ in few tokens, so they are aligned together, in one lattice
// over the tree of their prefixes. Only states that can lie on a path of a given score are visited:
// those whose best beginning plus the maxima of the frames to come reach it. Where a hypothesis has
// no path of that score it is lowered, so that the result is the best of all paths. Time and memory
// then grow with the frames and not with frames times tokens, unless the model is at a loss
// throughout.
class CtcAligner {
 public:
  // The log-probs [time, vocab] that Align() refers to, and the maximum of each row.
  void Start(const CtcLogProbs& log_probs, std::int64_t blank_id, Span<const float> row_maxima);

  // Fills the frames, token_confidences and confidence of each hypothesis whose tokens have an
  // alignment; in the others they stay empty and confidence is 0. Of equally good alignments it is
  // the one that, from the end back, stays longest in each token or blank, and prefers the blank to
  // the token before it. The ctc_scores, where there are some, say where to begin looking.
  void Align(std::vector<Hypothesis>* hypotheses);

 private:
  // A prefix of some hypothesis, with the best paths that end in its last token and in the blank
  // after that.
  struct Prefix {
    double in_token;
    double in_blank;
    std::int32_t parent;
    std::int32_t token;
    // One more than the last prefix that this one or any before it is the parent of.
    std::int32_t reach;
    bool differs;  // from the parent's token, so that no blank is needed between them
  };
  struct Band {
    std::size_t first;       // in prefixes_
    std::size_t first_step;  // in steps_
  };

  void BuildTree(const std::vector<Hypothesis>& hypotheses);
  bool PathsAbove(double lowest, double* best_at_end);
  void Trace(std::size_t leaf);
  void Fill(Hypothesis* hypothesis) const;

  CtcLogProbs log_probs_;
  std::size_t blank_ = 0;
  double lowest_ = 0.0;             // score that a path must have, as PathsAbove() took it
  std::vector<double> rest_;        // [time + 1]: sum of the row maxima from a frame on
  std::vector<std::size_t> order_;  // hypotheses yet to be aligned, in order of their tokens
  std::vector<std::size_t> leaf_;   // of each of these
  std::vector<Prefix> prefixes_;    // by length, and among equals in order of their parents
  std::vector<Band> bands_;         // [time]
  // How the best path came to each state: the token's in the lower two bits (0 from itself, 1 from
  // the blank before, 2 from the token before), then the blank's (1 from the token before it).
  std::vector<std::uint8_t> steps_;
  std::vector<std::uint32_t> path_;  // [time]: 0 for the blank, k + 1 for token k
  RowBuffer row_buffer_;
};

}  // namespace voxformer
