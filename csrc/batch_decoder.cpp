#include "batch_decoder.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "ctc_alignment.h"
#include "ctc_prefix_beam_search.h"
#include "log_prob_checks.h"
#include "parallel.h"
#include "refuse.h"

namespace voxformer {
namespace {

void CheckBatch(const std::vector<CtcLogProbs>& log_probs, Span<const std::int64_t> lengths,
                const CtcBeamOptions& options) {
  if (!lengths.empty() && lengths.size() != log_probs.size()) {
    Refuse("lengths has ", lengths.size(), " values for a batch of ", log_probs.size(),
           " utterances");
  }
  if (log_probs.empty()) return;
  const std::size_t vocab = log_probs[0].columns();
  if (vocab > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    Refuse("log_probs has ", vocab, " tokens; ids must fit in 32 bits");
  }
  if (options.blank_id < 0 || static_cast<std::size_t>(options.blank_id) >= vocab) {
    Refuse("blank_id is ", options.blank_id, ", but log_probs has tokens 0 to ",
           static_cast<std::int64_t>(vocab) - 1);
  }
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const std::size_t time = log_probs[i].rows();
    if (lengths[i] < 0 || static_cast<std::size_t>(lengths[i]) > time) {
      Refuse("utterance ", i, ": its length is ", lengths[i], ", but log_probs has frames 0 to ",
             static_cast<std::int64_t>(time) - 1, " (lengths must be from 0 to ", time, ")");
    }
  }
}

// A search that took more frames is not kept: its memory is that of its longest utterance.
constexpr std::size_t kMostFramesKept = 1U << 14;

}  // namespace

struct CtcBatchDecoder::Worker {
  Worker(const CtcBeamOptions& options, const std::shared_ptr<const FusionModel>& fusion)
      : search(options, fusion) {}

  CtcPrefixBeamSearch search;
  CtcAligner aligner;
  std::size_t most_frames = 0;
};

CtcBatchDecoder::CtcBatchDecoder(const CtcBeamOptions& options,
                                 std::shared_ptr<const FusionModel> fusion)
    : options_(options), fusion_(std::move(fusion)) {
  options_.Validate();
}

CtcBatchDecoder::~CtcBatchDecoder() = default;

// A lock that another call has, or had when this process was forked from it, is not waited for.
std::unique_ptr<CtcBatchDecoder::Worker> CtcBatchDecoder::TakeWorker() {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || workers_.empty()) return std::make_unique<Worker>(options_, fusion_);
  std::unique_ptr<Worker> worker = std::move(workers_.back());
  workers_.pop_back();
  return worker;
}

void CtcBatchDecoder::KeepWorker(std::unique_ptr<Worker> worker) {
  if (!worker || worker->most_frames > kMostFramesKept) return;
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock.owns_lock()) workers_.push_back(std::move(worker));
}

std::vector<std::vector<Hypothesis>> CtcBatchDecoder::Decode(
    const std::vector<CtcLogProbs>& log_probs, Span<const std::int64_t> lengths,
    std::size_t num_threads) {
  CheckBatch(log_probs, lengths, options_);
  if (fusion_ && !log_probs.empty()) CheckVocabulary(*fusion_, log_probs[0].columns());
  std::vector<std::vector<Hypothesis>> results(log_probs.size());
  // Those of a call that fails are dropped, in whatever state they are.
  std::vector<std::unique_ptr<Worker>> workers(log_probs.size());
  ParallelFor(log_probs.size(), num_threads, [&](std::size_t w, std::size_t i) {
    const CtcLogProbs utterance =
        lengths.empty() ? log_probs[i] : log_probs[i].First(static_cast<std::size_t>(lengths[i]));
    const std::string name = "utterance " + std::to_string(i) + ", ";
    CheckIds(utterance, name);
    if (!workers[w]) workers[w] = TakeWorker();
    CtcPrefixBeamSearch& search = workers[w]->search;
    CtcAligner& aligner = workers[w]->aligner;
    workers[w]->most_frames = std::max(workers[w]->most_frames, utterance.rows());
    search.Start();
    if (const auto frame = search.Feed(utterance)) {
      RowBuffer buffer;
      RefuseRow(utterance.Row(*frame, &buffer), name + "frame " + std::to_string(*frame));
    }
    if (options_.check_sums) CheckSums(utterance, name, 0);
    std::vector<Hypothesis> hypotheses = search.Results();
    aligner.Start(utterance, options_.blank_id, search.row_maxima());
    aligner.Align(&hypotheses);
    results[i] = std::move(hypotheses);
  });
  for (std::unique_ptr<Worker>& worker : workers) KeepWorker(std::move(worker));
  return results;
}

Hypothesis AlignTokens(const CtcLogProbs& log_probs, std::vector<std::int32_t> token_ids,
                       std::int64_t blank_id) {
  const std::int64_t vocab = static_cast<std::int64_t>(log_probs.columns());
  if (blank_id < 0 || blank_id >= vocab) {
    Refuse("blank_id is ", blank_id, ", but log_probs has tokens 0 to ", vocab - 1);
  }
  for (std::size_t k = 0; k < token_ids.size(); ++k) {
    if (token_ids[k] < 0 || token_ids[k] >= vocab || token_ids[k] == blank_id) {
      Refuse("token ", k, " is ", token_ids[k], "; ids must be from 0 to ", vocab - 1,
             " and not blank_id ", blank_id);
    }
  }
  const std::vector<float> row_maxima = CheckRows(log_probs, 0);
  std::vector<Hypothesis> hypotheses(1);
  hypotheses[0].token_ids = std::move(token_ids);
  CtcAligner aligner;
  aligner.Start(log_probs, blank_id, row_maxima);
  aligner.Align(&hypotheses);
  return std::move(hypotheses[0]);
}

}  // namespace voxformer
