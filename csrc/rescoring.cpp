#include "rescoring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "fast_exp.h"
#include "penalties.h"
#include "refuse.h"

namespace voxformer {
namespace {

// weight * score, where a weight of 0 silences also a score of -inf.
double Weighted(double weight, double score) noexcept {
  return weight == 0.0 ? 0.0 : weight * score;
}

void CheckPositions(std::size_t positions, std::size_t num_tokens, std::size_t hypothesis,
                    const char* name) {
  if (positions > num_tokens) return;
  Refuse("hypothesis ", hypothesis, " has ", num_tokens, " tokens and needs ", num_tokens + 1,
         " values (its tokens, then </s>), but ", name, " has ", positions, " columns");
}

void CheckRow(Span<const float> row, std::size_t num_tokens, std::size_t hypothesis) {
  CheckPositions(row.size(), num_tokens, hypothesis, "token_log_probs");
  for (std::size_t k = 0; k <= num_tokens; ++k) {
    if (row[k] <= std::numeric_limits<float>::max()) continue;
    Refuse("hypothesis ", hypothesis, ", position ", k, ": token_log_probs is ",
           std::isnan(row[k]) ? "NaN" : "+inf");
  }
}

}  // namespace

double AttentionScore(Span<const std::int32_t> token_ids, Span<const float> token_log_probs,
                      double repetition_penalty) noexcept {
  double sum = 0.0;
  for (std::size_t k = 0; k < token_ids.size(); ++k) {
    const double log_prob = static_cast<double>(token_log_probs[k]);
    const std::int32_t* here = token_ids.begin() + k;
    const bool repeated = std::find(token_ids.begin(), here, *here) != here;
    sum += repeated ? RepetitionPenalty(log_prob, repetition_penalty) : log_prob;
  }
  return sum + static_cast<double>(token_log_probs[token_ids.size()]);
}

void TokenLogProbs(MatrixView<const float> logits, Span<const std::int32_t> token_ids,
                   std::int64_t end_id, std::size_t hypothesis, float* token_log_probs) {
  CheckPositions(logits.rows(), token_ids.size(), hypothesis, "logits");
  for (std::size_t k = 0; k <= token_ids.size(); ++k) {
    const std::int64_t token = k < token_ids.size() ? token_ids[k] : end_id;
    if (token < 0 || static_cast<std::size_t>(token) >= logits.columns()) {
      Refuse("hypothesis ", hypothesis, ", position ", k, ": its id is ", token,
             ", but logits has tokens 0 to ", static_cast<std::int64_t>(logits.columns()) - 1);
    }
    const Span<const float> row = logits.row(k);
    float max = -std::numeric_limits<float>::infinity();
    for (const float logit : row) {
      if (!(logit <= std::numeric_limits<float>::max())) {
        Refuse("hypothesis ", hypothesis, ", position ", k, ": logits holds ",
               std::isnan(logit) ? "NaN" : "+inf");
      }
      max = std::max(max, logit);
    }
    if (max == -std::numeric_limits<float>::infinity()) {
      Refuse("hypothesis ", hypothesis, ", position ", k, ": every logit is -inf");
    }
    double sum = 0.0;
    for (const float logit : row) {
      // What is further below the maximum adds nothing; FastExp is for arguments within +-700.
      sum += FastExp(std::max(static_cast<double>(logit) - static_cast<double>(max), -700.0));
    }
    const double logit = static_cast<double>(row[static_cast<std::size_t>(token)]);
    token_log_probs[k] = static_cast<float>(logit - static_cast<double>(max) - std::log(sum));
  }
}

std::vector<std::size_t> Rescore(MatrixView<const float> token_log_probs,
                                 const RescoringOptions& options,
                                 std::vector<Hypothesis>* hypotheses) {
  options.Validate();
  if (token_log_probs.rows() != hypotheses->size()) {
    Refuse("token_log_probs has ", token_log_probs.rows(), " rows for ", hypotheses->size(),
           " hypotheses");
  }
  for (std::size_t i = 0; i < hypotheses->size(); ++i) {
    Hypothesis& hypothesis = (*hypotheses)[i];
    const std::size_t num_tokens = hypothesis.token_ids.size();
    CheckRow(token_log_probs.row(i), num_tokens, i);
    const double attention =
        AttentionScore(hypothesis.token_ids, token_log_probs.row(i), options.repetition_penalty);
    const double acoustic = Weighted(options.ctc_weight, hypothesis.ctc_score.value_or(0.0)) +
                            Weighted(1.0 - options.ctc_weight, attention);
    hypothesis.attention_score = attention;
    hypothesis.score = FinalScore(acoustic + hypothesis.bonus_score,
                                  Weighted(options.lm_weight, hypothesis.lm_score), num_tokens,
                                  options.length_bonus, options.length_penalty);
  }
  std::vector<std::size_t> order(hypotheses->size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return RanksBefore((*hypotheses)[a], (*hypotheses)[b]);
  });
  return order;
}

}  // namespace voxformer
