// CTC prefix beam search over the full vocabulary.
#pragma once

#include <cstdint>
#include <vector>

#include "hypothesis.h"
#include "options.h"
#include "prefix_tree.h"
#include "span.h"

namespace voxformer {

// Finds the token sequences with the largest sum over their alignments (Graves et al. 2006, section
// 3.2; Hannun et al. 2014, algorithm 1), in double precision and without a cut of the vocabulary: a
// token is passed over only where no prefix followed by it can be among the beam_size best.
//
// One object searches one utterance at a time and keeps its buffers for the next.
class CtcPrefixBeamSearch {
 public:
  explicit CtcPrefixBeamSearch(const CtcBeamOptions& options);

  // `log_probs` [time, vocab]: natural logarithms without NaN and +inf. Returns up to n_best
  // hypotheses with token_ids, ctc_score and score, sorted. Where no alignment is possible, that is
  // one empty hypothesis with score -inf.
  std::vector<Hypothesis> Search(LogProbs log_probs);

 private:
  // A prefix and the mass of its alignments up to the last frame.
  struct Prefix {
    PrefixTree::Node node;
    // Follows node's sequence, or kNoToken. Nodes are made only for what stays in the beam.
    std::int32_t token;
    double blank;      // ln mass of the alignments that end with blank
    double non_blank;  // ln mass of those that end with the last token
    double total;      // ln of their sum
    double rank;       // total + length_bonus * tokens
  };

  void Start(std::size_t num_frames);
  void Step(Span<const float> frame);
  void KeepExisting(Span<const float> frame);
  void Extend(Span<const float> frame);
  void Adopt();
  void Offer(const Prefix& candidate);
  bool Better(const Prefix& a, const Prefix& b) const noexcept;
  double Threshold() const noexcept;
  double Extension(const Prefix& prefix, std::int32_t token, double log_prob) const noexcept;
  std::vector<Hypothesis> Results() const;

  CtcBeamOptions options_;
  PrefixTree tree_;
  std::vector<Prefix> beam_;          // best first
  std::vector<Prefix> candidates_;    // a heap, its worst at the front
  std::vector<std::int32_t> slot_;    // by node: its place in beam_, or -1
  std::vector<std::int32_t> tokens_;  // those that may enter the beam at this frame
};

}  // namespace voxformer
