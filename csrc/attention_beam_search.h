// Autoregressive beam search with an attention decoder, one utterance at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hypothesis.h"
#include "options.h"
#include "prefix_tree.h"
#include "span.h"

namespace voxformer {

// The search holds hypotheses and scores; whoever drives it owns the decoder and its caches:
//
//   while (!search.done()) {
//     parents = search.Advance(decoder.Step(search.tokens()));
//     decoder.GatherCaches(parents);
//   }
//   search.Finish();
//
// Each step keeps the beam_size best continuations of the active hypotheses, in order of the sum of
// ln p after penalties plus length bonuses. Those that take </s> are finished and leave the beam.
// With beam_size 1 this is greedy search.
class AttentionBeamSearch {
 public:
  // No hypothesis gets more than `max_tokens` tokens: one that has as many is closed with </s>, and
  // is truncated unless </s> was its most probable continuation.
  AttentionBeamSearch(std::int64_t sos_eos_id, std::int64_t blank_id,
                      const AttentionOptions& options, std::int64_t max_tokens);

  // The last token of every active hypothesis, best first: what the decoder reads next.
  std::vector<std::int64_t> tokens() const;
  bool done() const noexcept { return active_.empty(); }

  // `log_probs` [active, vocab]: ln p of every hypothesis' next token. Returns, for each hypothesis
  // that is active now, the row that it continues.
  std::vector<std::int64_t> Advance(LogProbs log_probs);

  // The n_best finished hypotheses, sorted. Only if none has finished: the active ones, truncated
  // and without </s> in their scores.
  std::vector<Hypothesis> Finish() const;

 private:
  struct Active {
    PrefixTree::Node node;
    double attention;  // sum of ln p after the repetition penalty
    double rank;       // with the length bonuses
  };
  struct Candidate {
    std::int32_t row;
    std::int32_t token;  // kNoToken for </s>
    double attention;
    double rank;
  };

  void CheckInput(LogProbs log_probs) const;
  void PenaliseRow(Span<const float> row, PrefixTree::Node node);
  void Offer(const Candidate& candidate);
  bool Better(const Candidate& a, const Candidate& b) const noexcept;
  void Close(const Active& hypothesis, double attention, double end_log_prob, bool truncated);
  void CloseAll(LogProbs log_probs);
  bool CanStillWin() const noexcept;
  double BestReachable(double rank, std::size_t num_tokens) const noexcept;
  Hypothesis MakeHypothesis(PrefixTree::Node node, double attention) const;

  std::int64_t sos_eos_id_;
  std::int64_t blank_id_;
  AttentionOptions options_;
  std::size_t max_tokens_;
  std::size_t length_ = 0;  // tokens of every active hypothesis

  PrefixTree tree_;
  std::vector<double> node_log_prob_;  // by node: ln p of its token before penalties
  std::vector<Active> active_;         // best first
  std::vector<Active> stranded_;       // had no possible continuation, when all had none
  std::vector<Hypothesis> finished_;   // the n_best so far, sorted
  std::vector<Candidate> candidates_;  // a heap, its worst at the front
  std::vector<double> row_;            // ln p of one hypothesis' next token, after penalties
  std::vector<std::int32_t> sequence_;
  std::vector<std::int32_t> banned_;
};

}  // namespace voxformer
