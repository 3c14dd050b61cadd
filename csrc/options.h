// Options of the searches. Validate() throws std::invalid_argument that names the field, what it
// was and what it may be.
#pragma once

#include <cstdint>
#include <limits>

namespace voxformer {

struct CtcBeamOptions {
  // Prefixes kept after each frame.
  std::int64_t beam_size = 10;
  // Hypotheses returned per utterance, at most beam_size.
  std::int64_t n_best = 1;
  // Column of the blank in log_probs.
  std::int64_t blank_id = 0;
  // Added to a prefix's score for every token, while the search runs. Natural-log units.
  double length_bonus = 0.0;
  // Exponent of ((5 + n) / 6) that the score of an n-token hypothesis is divided by, when the
  // prefixes of the last frame are ranked. 0 is off.
  double length_penalty = 0.0;
  // After each frame, prefixes whose score is this far below the best are dropped. Natural-log
  // units.
  double beam_threshold = std::numeric_limits<double>::infinity();
  // Tokens below this log-prob make no new prefix, but for a frame's most probable token.
  double token_min_log_prob = -std::numeric_limits<double>::infinity();
  // With a fusion model: prefixes kept of those that have the same future, see
  // PrefixScorer::State(). 0 keeps all.
  std::int64_t prefixes_per_state = 0;
  // Refuse frames whose probabilities do not add up to 1.
  bool check_sums = false;

  void Validate() const;
};

struct AttentionOptions {
  // Hypotheses kept after each step, those that end with it included.
  std::int64_t beam_size = 10;
  // Hypotheses returned, at most beam_size.
  std::int64_t n_best = 1;
  // Exponent of ((5 + n) / 6) that the score of a finished n-token hypothesis is divided by.
  double length_penalty = 0.0;
  // Factor on ln p of a token that the hypothesis already holds. 1 is off; above 1 discourages.
  double repetition_penalty = 1.0;
  // No n-gram of this many tokens occurs twice in a hypothesis. 0 is off.
  std::int64_t no_repeat_ngram = 0;
  // Added to a hypothesis' score for every token, while the search runs. Natural-log units.
  double length_bonus = 0.0;

  void Validate() const;
};

struct RescoringOptions {
  // Share of the CTC score, in [0, 1]; the attention score has the rest.
  double ctc_weight = 0.5;
  // Factor on the language model's score.
  double lm_weight = 0.0;
  // Added for every token. Natural-log units.
  double length_bonus = 0.0;
  // Exponent of ((5 + n) / 6) that the sum is divided by. 0 is off.
  double length_penalty = 0.0;
  // Factor on ln p of a token that the hypothesis already holds. 1 is off.
  double repetition_penalty = 1.0;

  void Validate() const;
};

}  // namespace voxformer
