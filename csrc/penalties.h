// The one definition of what is added to, taken from or forbidden in a hypothesis. Rescoring and
// both searches use these, so that a penalty means the same wherever it is set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hypothesis.h"
#include "options.h"
#include "span.h"

namespace voxformer {

// ln p of a token that the hypothesis already holds, after the repetition penalty (CTRL, Keskar et
// al. 2019, section 4.1, with the sign rule of the Hugging Face processor).
inline double RepetitionPenalty(double log_prob, double penalty) noexcept {
  return log_prob < 0.0 ? log_prob * penalty : log_prob / penalty;
}

// ((5 + n) / 6)^penalty, by which a score is divided (Wu et al. 2016, equation 14).
double LengthNorm(std::size_t num_tokens, double length_penalty) noexcept;

// (acoustic + lm_weight * lm + length_bonus * n) / LengthNorm(n), where `acoustic` is the weighted
// sum of the CTC and attention scores, or the one of them that there is, with what words and
// hotwords add.
double FinalScore(double acoustic, double weighted_lm, std::size_t num_tokens, double length_bonus,
                  double length_penalty) noexcept;

// Appends to `banned` the tokens that would complete an n-gram of `order` tokens that `token_ids`
// already holds. Nothing for order 0.
void AppendNgramBans(Span<const std::int32_t> token_ids, std::int64_t order,
                     std::vector<std::int32_t>* banned);

}  // namespace voxformer
