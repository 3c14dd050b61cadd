// CTC beam search of an utterance that comes in pieces.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "ctc_alignment.h"
#include "ctc_log_probs.h"
#include "ctc_prefix_beam_search.h"
#include "fusion.h"
#include "hypothesis.h"
#include "options.h"
#include "span.h"

namespace voxformer {

// However the frames are cut, Partial() is what CtcBatchDecoder returns for all of them at once.
// The frames are kept, for the times of the tokens: 4 bytes for each frame and token of the
// vocabulary. May be used from several threads, one after the other.
class CtcStream {
 public:
  explicit CtcStream(const CtcBeamOptions& options,
                     std::shared_ptr<const FusionModel> fusion = nullptr);

  // Goes on by the frames of `log_probs` [time, vocab]. Throws std::invalid_argument, and takes
  // none of them, where the vocabulary is not that of the frames before, a value is NaN or
  // +inf, or options ask for a check that fails.
  void Feed(const CtcLogProbs& log_probs);

  // The n-best of all frames so far.
  std::vector<Hypothesis> Partial();

 private:
  CtcBeamOptions options_;
  std::shared_ptr<const FusionModel> fusion_;
  std::mutex mutex_;
  CtcPrefixBeamSearch search_;
  CtcAligner aligner_;
  std::vector<float> frames_;
  std::size_t vocab_ = 0;
};

}  // namespace voxformer
