#include "ctc_prefix_beam_search.h"

#include <algorithm>
#include <cmath>

#include "log_math.h"
#include "penalties.h"

namespace voxformer {
namespace {

// Room made before the first frame; larger searches grow while they run.
constexpr std::size_t kMaxReservedNodes = std::size_t{1} << 20;

}  // namespace

CtcPrefixBeamSearch::CtcPrefixBeamSearch(const CtcBeamOptions& options) : options_(options) {
  options_.Validate();
}

std::vector<Hypothesis> CtcPrefixBeamSearch::Search(LogProbs log_probs) {
  Start(log_probs.rows());
  for (std::size_t t = 0; t < log_probs.rows(); ++t) Step(log_probs.row(t));
  return Results();
}

void CtcPrefixBeamSearch::Start(std::size_t num_frames) {
  const std::size_t beam_size = static_cast<std::size_t>(options_.beam_size);
  const std::size_t nodes = num_frames == 0 || beam_size < kMaxReservedNodes / num_frames
                                ? num_frames * beam_size
                                : kMaxReservedNodes;
  tree_.Reset(nodes);
  slot_.clear();
  slot_.reserve(nodes + 1);
  slot_.push_back(0);
  beam_.reserve(std::min(beam_size, kMaxReservedNodes));
  candidates_.reserve(std::min(beam_size, kMaxReservedNodes));
  beam_.assign(1, {PrefixTree::kRoot, PrefixTree::kNoToken, 0.0, kLogZero, 0.0, 0.0});
}

void CtcPrefixBeamSearch::Step(Span<const float> frame) {
  candidates_.clear();
  // What is there goes first: it fills the heap, whose worst then bounds what can still enter.
  KeepExisting(frame);
  Extend(frame);
  Adopt();
}

// ln of the mass with which `prefix` goes on to `prefix + token`. After the same token only the
// alignments that end with blank do: the others repeat it.
double CtcPrefixBeamSearch::Extension(const Prefix& prefix, std::int32_t token,
                                      double log_prob) const noexcept {
  return (tree_.token(prefix.node) == token ? prefix.blank : prefix.total) + log_prob;
}

void CtcPrefixBeamSearch::KeepExisting(Span<const float> frame) {
  const double blank = static_cast<double>(frame[static_cast<std::size_t>(options_.blank_id)]);
  for (const Prefix& prefix : beam_) {
    Prefix next = prefix;
    next.blank = prefix.total + blank;
    next.non_blank = kLogZero;
    if (prefix.node != PrefixTree::kRoot) {
      const std::int32_t last = tree_.token(prefix.node);
      const double log_prob = static_cast<double>(frame[static_cast<std::size_t>(last)]);
      next.non_blank = prefix.non_blank + log_prob;
      const std::int32_t parent = slot_[static_cast<std::size_t>(tree_.parent(prefix.node))];
      if (parent >= 0) {
        next.non_blank = LogAdd(next.non_blank,
                                Extension(beam_[static_cast<std::size_t>(parent)], last, log_prob));
      }
    }
    next.total = LogAdd(next.blank, next.non_blank);
    next.rank = next.total + options_.length_bonus * tree_.depth(prefix.node);
    Offer(next);
  }
}

void CtcPrefixBeamSearch::Extend(Span<const float> frame) {
  double best = kLogZero;
  for (const Prefix& prefix : beam_) {
    best = std::max(best, prefix.total + options_.length_bonus * (tree_.depth(prefix.node) + 1));
  }
  // The bound adds in another order than the scores that it stands for, hence the rounding
  // allowance; ties must pass.
  const double threshold = Threshold();
  const double slack = 1e-12 * (1.0 + std::fabs(best) + std::fabs(threshold));
  const double needed = threshold - best - slack;
  tokens_.clear();
  for (std::size_t token = 0; token < frame.size(); ++token) {
    const double log_prob = static_cast<double>(frame[token]);
    if (log_prob >= needed && log_prob != kLogZero) {
      tokens_.push_back(static_cast<std::int32_t>(token));
    }
  }
  for (const Prefix& prefix : beam_) {
    for (const std::int32_t token : tokens_) {
      if (token == options_.blank_id) continue;
      Prefix next = {prefix.node, token, kLogZero, 0.0, 0.0, 0.0};
      next.non_blank =
          Extension(prefix, token, static_cast<double>(frame[static_cast<std::size_t>(token)]));
      next.total = next.non_blank;
      next.rank = next.total + options_.length_bonus * (tree_.depth(prefix.node) + 1);
      if (next.rank < Threshold()) continue;
      // KeepExisting() has added this mass where the longer prefix is in the beam already.
      const PrefixTree::Node child = tree_.FindChild(prefix.node, token);
      if (child >= 0 && slot_[static_cast<std::size_t>(child)] >= 0) continue;
      Offer(next);
    }
  }
}

// Makes the candidates the beam of the next frame.
void CtcPrefixBeamSearch::Adopt() {
  for (const Prefix& prefix : beam_) slot_[static_cast<std::size_t>(prefix.node)] = -1;
  std::sort(candidates_.begin(), candidates_.end(),
            [this](const Prefix& a, const Prefix& b) { return Better(a, b); });
  for (Prefix& prefix : candidates_) {
    if (prefix.token == PrefixTree::kNoToken) continue;
    prefix.node = tree_.Child(prefix.node, prefix.token);
    prefix.token = PrefixTree::kNoToken;
  }
  slot_.resize(tree_.size(), -1);
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    slot_[static_cast<std::size_t>(candidates_[i].node)] = static_cast<std::int32_t>(i);
  }
  beam_.swap(candidates_);
}

void CtcPrefixBeamSearch::Offer(const Prefix& candidate) {
  if (candidate.total == kLogZero) return;
  const auto better = [this](const Prefix& a, const Prefix& b) { return Better(a, b); };
  if (candidates_.size() == static_cast<std::size_t>(options_.beam_size)) {
    if (!Better(candidate, candidates_.front())) return;
    std::pop_heap(candidates_.begin(), candidates_.end(), better);
    candidates_.pop_back();
  }
  candidates_.push_back(candidate);
  std::push_heap(candidates_.begin(), candidates_.end(), better);
}

bool CtcPrefixBeamSearch::Better(const Prefix& a, const Prefix& b) const noexcept {
  if (a.rank != b.rank) return a.rank > b.rank;
  return tree_.Before(a.node, a.token, b.node, b.token);
}

// The rank that a new candidate must reach.
double CtcPrefixBeamSearch::Threshold() const noexcept {
  if (candidates_.size() < static_cast<std::size_t>(options_.beam_size)) return kLogZero;
  return candidates_.front().rank;
}

std::vector<Hypothesis> CtcPrefixBeamSearch::Results() const {
  if (beam_.empty()) {
    Hypothesis impossible;
    impossible.score = kLogZero;
    impossible.ctc_score = kLogZero;
    return {impossible};
  }
  std::vector<Hypothesis> hypotheses(beam_.size());
  for (std::size_t i = 0; i < beam_.size(); ++i) {
    Hypothesis& hypothesis = hypotheses[i];
    tree_.Sequence(beam_[i].node, &hypothesis.token_ids);
    hypothesis.ctc_score = beam_[i].total;
    hypothesis.score = FinalScore(beam_[i].total, 0.0, hypothesis.token_ids.size(),
                                  options_.length_bonus, options_.length_penalty);
  }
  const std::size_t n_best = std::min(hypotheses.size(), static_cast<std::size_t>(options_.n_best));
  std::partial_sort(hypotheses.begin(), hypotheses.begin() + static_cast<std::ptrdiff_t>(n_best),
                    hypotheses.end(),
                    [](const Hypothesis& a, const Hypothesis& b) { return RanksBefore(a, b); });
  hypotheses.resize(n_best);
  return hypotheses;
}

}  // namespace voxformer
