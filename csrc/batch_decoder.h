// CTC beam search of a padded batch: checks, search and alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ctc_log_probs.h"
#include "fusion.h"
#include "hypothesis.h"
#include "options.h"
#include "span.h"

namespace voxformer {

// The n_best hypotheses of every utterance of a padded batch, which have one vocabulary, on up to
// `num_threads` threads; the result does not depend on their number. `fusion` may be null.
// `lengths` [batch] counts frames and may be empty for full length. Throws std::invalid_argument
// that names utterance and frame.
std::vector<std::vector<Hypothesis>> DecodeBatch(const std::vector<CtcLogProbs>& log_probs,
                                                 Span<const std::int64_t> lengths,
                                                 const CtcBeamOptions& options,
                                                 const std::shared_ptr<const FusionModel>& fusion,
                                                 std::size_t num_threads);

// Timesteps and confidences of given tokens in one utterance's log-probs.
Hypothesis AlignTokens(const CtcLogProbs& log_probs, std::vector<std::int32_t> token_ids,
                       std::int64_t blank_id);

}  // namespace voxformer
