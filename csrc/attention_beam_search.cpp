#include "attention_beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "log_math.h"
#include "penalties.h"
#include "refuse.h"

namespace voxformer {
namespace {}  // namespace

AttentionBeamSearch::AttentionBeamSearch(std::int64_t sos_eos_id, std::int64_t blank_id,
                                         const AttentionOptions& options, std::int64_t max_tokens)
    : sos_eos_id_(sos_eos_id), blank_id_(blank_id), options_(options) {
  options_.Validate();
  if (sos_eos_id < 0) Refuse("sos_eos_id is ", sos_eos_id, "; it must be 0 or more");
  if (blank_id < 0) Refuse("blank_id is ", blank_id, "; it must be 0 or more");
  if (sos_eos_id == blank_id) {
    Refuse("sos_eos_id and blank_id are both ", blank_id, "; they must differ");
  }
  if (max_tokens < 0) Refuse("max_tokens is ", max_tokens, "; it must be 0 or more");
  max_tokens_ = static_cast<std::size_t>(max_tokens);
  tree_.Reset();
  node_log_prob_.push_back(0.0);
  active_.push_back({PrefixTree::kRoot, 0.0, 0.0});
}

std::vector<std::int64_t> AttentionBeamSearch::tokens() const {
  std::vector<std::int64_t> last(active_.size(), sos_eos_id_);
  if (length_ > 0) {
    std::transform(active_.begin(), active_.end(), last.begin(), [this](const Active& hypothesis) {
      return static_cast<std::int64_t>(tree_.token(hypothesis.node));
    });
  }
  return last;
}

std::vector<std::int64_t> AttentionBeamSearch::Advance(LogProbs log_probs) {
  CheckInput(log_probs);
  if (length_ == max_tokens_) {
    CloseAll(log_probs);
    return {};
  }

  candidates_.clear();
  for (std::size_t i = 0; i < active_.size(); ++i) {
    PenaliseRow(log_probs.row(i), active_[i].node);
    for (std::size_t token = 0; token < row_.size(); ++token) {
      const bool ends = token == static_cast<std::size_t>(sos_eos_id_);
      const double bonus = ends ? 0.0 : options_.length_bonus;
      Offer({static_cast<std::int32_t>(i),
             ends ? PrefixTree::kNoToken : static_cast<std::int32_t>(token),
             active_[i].attention + row_[token], active_[i].rank + row_[token] + bonus});
    }
  }
  if (candidates_.empty()) stranded_ = active_;
  std::sort(candidates_.begin(), candidates_.end(),
            [this](const Candidate& a, const Candidate& b) { return Better(a, b); });

  std::vector<Active> next;
  std::vector<std::int64_t> parents;
  for (const Candidate& candidate : candidates_) {
    const std::size_t row = static_cast<std::size_t>(candidate.row);
    if (candidate.token == PrefixTree::kNoToken) {
      const double end = static_cast<double>(log_probs(row, static_cast<std::size_t>(sos_eos_id_)));
      Close(active_[row], candidate.attention, end, false);
      continue;
    }
    const PrefixTree::Node node = tree_.Child(active_[row].node, candidate.token);
    node_log_prob_.push_back(
        static_cast<double>(log_probs(row, static_cast<std::size_t>(candidate.token))));
    next.push_back({node, candidate.attention, candidate.rank});
    parents.push_back(candidate.row);
  }
  active_.swap(next);
  ++length_;
  if (!CanStillWin()) {
    active_.clear();
    parents.clear();
  }
  return parents;
}

void AttentionBeamSearch::CheckInput(LogProbs log_probs) const {
  if (done()) Refuse("the search is done; take its result from finish()");
  if (log_probs.rows() != active_.size()) {
    Refuse("log_probs has ", log_probs.rows(), " rows for ", active_.size(), " active hypotheses");
  }
  const std::int64_t vocab = static_cast<std::int64_t>(log_probs.columns());
  if (vocab > std::numeric_limits<std::int32_t>::max() ||
      vocab <= std::max(sos_eos_id_, blank_id_)) {
    Refuse("log_probs has ", vocab, " tokens, which does not include sos_eos_id ", sos_eos_id_,
           " and blank_id ", blank_id_);
  }
  for (std::size_t i = 0; i < log_probs.rows(); ++i) {
    for (std::size_t token = 0; token < log_probs.columns(); ++token) {
      if (log_probs(i, token) <= std::numeric_limits<float>::max()) continue;
      Refuse("hypothesis ", i, ", position ", length_, ": log_probs is ",
             std::isnan(log_probs(i, token)) ? "NaN" : "+inf", " for token ", token);
    }
  }
}

// Copies a row of log-probs to row_, with what its hypothesis forbids and discourages.
void AttentionBeamSearch::PenaliseRow(Span<const float> row, PrefixTree::Node node) {
  row_.assign(row.begin(), row.end());
  row_[static_cast<std::size_t>(blank_id_)] = kLogZero;
  if (options_.repetition_penalty == 1.0 && options_.no_repeat_ngram == 0) return;
  tree_.Sequence(node, &sequence_);
  for (const std::int32_t token : sequence_) {
    // From the row and not from row_: a token that occurs twice is discouraged once.
    const std::size_t column = static_cast<std::size_t>(token);
    row_[column] = RepetitionPenalty(static_cast<double>(row[column]), options_.repetition_penalty);
  }
  banned_.clear();
  AppendNgramBans(sequence_, options_.no_repeat_ngram, &banned_);
  for (const std::int32_t token : banned_) row_[static_cast<std::size_t>(token)] = kLogZero;
}

void AttentionBeamSearch::Offer(const Candidate& candidate) {
  if (candidate.rank == kLogZero) return;
  const auto better = [this](const Candidate& a, const Candidate& b) { return Better(a, b); };
  if (candidates_.size() == static_cast<std::size_t>(options_.beam_size)) {
    if (!Better(candidate, candidates_.front())) return;
    std::pop_heap(candidates_.begin(), candidates_.end(), better);
    candidates_.pop_back();
  }
  candidates_.push_back(candidate);
  std::push_heap(candidates_.begin(), candidates_.end(), better);
}

bool AttentionBeamSearch::Better(const Candidate& a, const Candidate& b) const noexcept {
  if (a.rank != b.rank) return a.rank > b.rank;
  return tree_.Before(active_[static_cast<std::size_t>(a.row)].node, a.token,
                      active_[static_cast<std::size_t>(b.row)].node, b.token);
}

void AttentionBeamSearch::Close(const Active& hypothesis, double attention, double end_log_prob,
                                bool truncated) {
  Hypothesis closed = MakeHypothesis(hypothesis.node, attention);
  closed.truncated = truncated;
  if (closed.token_ids.empty()) closed.confidence = std::min(1.0, std::exp(end_log_prob));
  const auto place =
      std::upper_bound(finished_.begin(), finished_.end(), closed,
                       [](const Hypothesis& a, const Hypothesis& b) { return RanksBefore(a, b); });
  finished_.insert(place, std::move(closed));
  if (finished_.size() > static_cast<std::size_t>(options_.n_best)) finished_.pop_back();
}

// The length cap: every active hypothesis ends here.
void AttentionBeamSearch::CloseAll(LogProbs log_probs) {
  const std::size_t end = static_cast<std::size_t>(sos_eos_id_);
  for (std::size_t i = 0; i < active_.size(); ++i) {
    PenaliseRow(log_probs.row(i), active_[i].node);
    if (row_[end] == kLogZero) continue;
    const double most_probable = *std::max_element(row_.begin(), row_.end());
    Close(active_[i], active_[i].attention + row_[end], static_cast<double>(log_probs(i, end)),
          row_[end] < most_probable);
  }
  if (finished_.empty()) stranded_ = active_;
  active_.clear();
}

// Whether an active hypothesis may still come before the worst of the finished n-best.
bool AttentionBeamSearch::CanStillWin() const noexcept {
  if (finished_.size() < static_cast<std::size_t>(options_.n_best) || active_.empty()) return true;
  return BestReachable(active_.front().rank, length_) >= finished_.back().score;
}

// The largest final score of a hypothesis that has `num_tokens` tokens and `rank` now, if all that
// follows were certain: the maximum over lengths m of
// (rank + length_bonus * (m - num_tokens)) / ((5 + m) / 6)^length_penalty,
// which lies at either end or where the derivative is zero.
double AttentionBeamSearch::BestReachable(double rank, std::size_t num_tokens) const noexcept {
  const double first = static_cast<double>(num_tokens);
  const double last = static_cast<double>(max_tokens_);
  const double bonus = options_.length_bonus;
  const double penalty = options_.length_penalty;
  const auto score = [&](double m) {
    return (rank + bonus * (m - first)) / LengthNorm(static_cast<std::size_t>(m), penalty);
  };
  double best = std::max(score(first), score(last));
  const double divisor = bonus * (1.0 - penalty);
  if (divisor != 0.0) {
    const double extremum = (penalty * (rank - bonus * first) - 5.0 * bonus) / divisor;
    if (extremum > first && extremum < last) {
      best = std::max({best, score(std::floor(extremum)), score(std::ceil(extremum))});
    }
  }
  return best;
}

Hypothesis AttentionBeamSearch::MakeHypothesis(PrefixTree::Node node, double attention) const {
  Hypothesis hypothesis;
  tree_.Sequence(node, &hypothesis.token_ids);
  hypothesis.attention_score = attention;
  hypothesis.score = FinalScore(attention, 0.0, hypothesis.token_ids.size(), options_.length_bonus,
                                options_.length_penalty);
  hypothesis.token_confidences.resize(hypothesis.token_ids.size());
  double sum = 0.0;
  for (std::size_t k = hypothesis.token_ids.size(); k-- > 0; node = tree_.parent(node)) {
    const double log_prob = std::min(0.0, node_log_prob_[static_cast<std::size_t>(node)]);
    hypothesis.token_confidences[k] = std::exp(log_prob);
    sum += log_prob;
  }
  if (!hypothesis.token_ids.empty()) {
    hypothesis.confidence = std::exp(sum / static_cast<double>(hypothesis.token_ids.size()));
  }
  return hypothesis;
}

std::vector<Hypothesis> AttentionBeamSearch::Finish() const {
  if (!finished_.empty()) return finished_;
  std::vector<Hypothesis> open;
  for (const Active& hypothesis : active_.empty() ? stranded_ : active_) {
    open.push_back(MakeHypothesis(hypothesis.node, hypothesis.attention));
    open.back().truncated = true;
  }
  std::sort(open.begin(), open.end(),
            [](const Hypothesis& a, const Hypothesis& b) { return RanksBefore(a, b); });
  if (open.size() > static_cast<std::size_t>(options_.n_best)) {
    open.resize(static_cast<std::size_t>(options_.n_best));
  }
  return open;
}

}  // namespace voxformer
