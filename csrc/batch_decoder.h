// CTC beam search of a padded batch: checks, search and alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "ctc_log_probs.h"
#include "fusion.h"
#include "hypothesis.h"
#include "options.h"
#include "span.h"

namespace voxformer {

// Decodes batches with the same options, and keeps the memory of its searches from one to the next.
// May be used from several threads at once; each call has searches of its own.
class CtcBatchDecoder {
 public:
  // `fusion` may be null. Throws std::invalid_argument where an option is out of range.
  explicit CtcBatchDecoder(const CtcBeamOptions& options,
                           std::shared_ptr<const FusionModel> fusion = nullptr);
  ~CtcBatchDecoder();

  // The n_best hypotheses of every utterance of a padded batch, which have one vocabulary, on up to
  // `num_threads` threads; the result does not depend on their number. `lengths` [batch] counts
  // frames and may be empty for full length. Throws std::invalid_argument that names utterance and
  // frame.
  std::vector<std::vector<Hypothesis>> Decode(const std::vector<CtcLogProbs>& log_probs,
                                              Span<const std::int64_t> lengths,
                                              std::size_t num_threads);

  const CtcBeamOptions& options() const noexcept { return options_; }

 private:
  struct Worker;

  std::unique_ptr<Worker> TakeWorker();
  void KeepWorker(std::unique_ptr<Worker> worker);

  CtcBeamOptions options_;
  std::shared_ptr<const FusionModel> fusion_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;  // that no call has
};

// Timesteps and confidences of given tokens in one utterance's log-probs.
Hypothesis AlignTokens(const CtcLogProbs& log_probs, std::vector<std::int32_t> token_ids,
                       std::int64_t blank_id);

}  // namespace voxformer
