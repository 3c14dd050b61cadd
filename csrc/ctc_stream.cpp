#include "ctc_stream.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "log_prob_checks.h"

namespace voxformer {

CtcStream::CtcStream(const CtcBeamOptions& options, std::shared_ptr<const FusionModel> fusion)
    : options_(options), fusion_(std::move(fusion)), search_(options, fusion_) {}

void CtcStream::Feed(const CtcLogProbs& log_probs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (log_probs.rows() == 0) return;
  const std::size_t frames = search_.row_maxima().size();
  if (frames > 0 && log_probs.columns() != vocab_) {
    throw std::invalid_argument("log_probs has " + std::to_string(log_probs.columns()) +
                                " tokens; the frames before had " + std::to_string(vocab_));
  }
  if (static_cast<std::size_t>(options_.blank_id) >= log_probs.columns()) {
    throw std::invalid_argument("blank_id is " + std::to_string(options_.blank_id) +
                                ", but log_probs has " + std::to_string(log_probs.columns()) +
                                " tokens");
  }
  if (fusion_) CheckVocabulary(*fusion_, log_probs.columns());
  CheckIds(log_probs, "");
  CheckRows(log_probs, frames);
  if (options_.check_sums) CheckSums(log_probs, "", frames);
  vocab_ = log_probs.columns();
  RowBuffer buffer;
  for (std::size_t t = 0; t < log_probs.rows(); ++t) {
    const Span<const float> row = log_probs.Row(t, &buffer);
    frames_.insert(frames_.end(), row.begin(), row.end());
  }
  search_.Feed(log_probs);
}

std::vector<Hypothesis> CtcStream::Partial() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Hypothesis> hypotheses = search_.Results();
  const std::vector<float>& row_maxima = search_.row_maxima();
  aligner_.Start(CtcLogProbs(frames_.data(), row_maxima.size(), vocab_), options_.blank_id,
                 row_maxima);
  aligner_.Align(&hypotheses);
  return hypotheses;
}

}  // namespace voxformer
