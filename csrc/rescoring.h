// Second pass: the attention decoder's opinion of the CTC search's n-best.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hypothesis.h"
#include "options.h"
#include "span.h"

namespace voxformer {

// Sum of ln p over `token_ids` and </s> after the repetition penalty. `token_log_probs` [>= n + 1]
// has ln p of token k, given those before it, at k, and ln p of </s> at n; the rest is padding.
double AttentionScore(Span<const std::int32_t> token_ids, Span<const float> token_log_probs,
                      double repetition_penalty) noexcept;

// ln p of `token_ids` and of `end_id` after them, as AttentionScore() takes them: each is the logit
// less the log-sum-exp of its row of `logits` [>= n + 1, vocab], which is not copied. Throws
// std::invalid_argument that names `hypothesis` and the position.
void TokenLogProbs(MatrixView<const float> logits, Span<const std::int32_t> token_ids,
                   std::int64_t end_id, std::size_t hypothesis, float* token_log_probs);

// Fills attention_score and score of one utterance's hypotheses from their ctc_score, lm_score,
// bonus_score and row of `token_log_probs` [n, max_len + 1], and returns their order, best first.
// Throws std::invalid_argument that names hypothesis and position.
std::vector<std::size_t> Rescore(MatrixView<const float> token_log_probs,
                                 const RescoringOptions& options,
                                 std::vector<Hypothesis>* hypotheses);

}  // namespace voxformer
