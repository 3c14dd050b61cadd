// What a search returns.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace voxformer {

struct Hypothesis {
  std::vector<std::int32_t> token_ids;
  // What these spell by a lexicon, if there is one.
  std::vector<std::string> words;
  bool has_words = false;
  // What the hypotheses of an utterance are sorted by; see FinalScore().
  double score = 0.0;
  // ln of the alignment mass that the search kept for these tokens; none without a CTC search.
  std::optional<double> ctc_score;
  // Sum of ln p over the tokens and </s>; none without an attention decoder.
  std::optional<double> attention_score;
  // ln p under the language model, </s> included; 0 without one.
  double lm_score = 0.0;
  // Word bonuses and hotwords.
  double bonus_score = 0.0;
  // 0-based frame of each token's peak in the best alignment; empty without a CTC search.
  std::vector<std::int64_t> timesteps;
  // The first frame of each token in that alignment, and the one after its last.
  std::vector<std::int64_t> token_starts;
  std::vector<std::int64_t> token_ends;
  // Probability of each token where it peaks (CTC) or where it was chosen (attention), in [0, 1].
  std::vector<double> token_confidences;
  // Geometric mean of the token confidences; of </s> or blank where there are no tokens.
  double confidence = 0.0;
  // The length cap ended it, not the model.
  bool truncated = false;
};

// Better score first; equal scores in lexicographic order of the ids, a prefix before what extends
// it.
inline bool RanksBefore(double score_a, const std::vector<std::int32_t>& ids_a, double score_b,
                        const std::vector<std::int32_t>& ids_b) noexcept {
  if (score_a != score_b) return score_a > score_b;
  return ids_a < ids_b;
}

inline bool RanksBefore(const Hypothesis& a, const Hypothesis& b) noexcept {
  return RanksBefore(a.score, a.token_ids, b.score, b.token_ids);
}

}  // namespace voxformer
