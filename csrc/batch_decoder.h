// CTC beam search of a padded batch: checks, search and alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hypothesis.h"
#include "options.h"
#include "span.h"

namespace voxformer {

// A padded batch of CTC log-probs, row-major [batch, time, vocab].
struct BatchView {
  const float* data;
  std::size_t batch;
  std::size_t time;
  std::size_t vocab;

  // The first `length` frames of an utterance.
  LogProbs utterance(std::size_t index, std::size_t length) const noexcept {
    return {data + index * time * vocab, length, vocab};
  }
};

// The n_best hypotheses of every utterance, on up to `num_threads` threads; the result does not
// depend on their number. `lengths` [batch] counts frames and may be empty for full length. Throws
// std::invalid_argument that names utterance and frame.
std::vector<std::vector<Hypothesis>> DecodeBatch(const BatchView& log_probs,
                                                 Span<const std::int64_t> lengths,
                                                 const CtcBeamOptions& options,
                                                 std::size_t num_threads);

// Timesteps and confidences of given tokens in one utterance's log-probs.
Hypothesis AlignTokens(LogProbs log_probs, std::vector<std::int32_t> token_ids,
                       std::int64_t blank_id);

}  // namespace voxformer
