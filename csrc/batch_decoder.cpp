#include "batch_decoder.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "ctc_alignment.h"
#include "ctc_prefix_beam_search.h"
#include "log_prob_checks.h"
#include "parallel.h"

namespace voxformer {
namespace {

template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

void CheckBatch(const BatchView& log_probs, Span<const std::int64_t> lengths,
                std::int64_t blank_id) {
  if (log_probs.vocab > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    Refuse("log_probs has ", log_probs.vocab, " tokens; ids must fit in 32 bits");
  }
  if (log_probs.batch > 0 &&
      (blank_id < 0 || static_cast<std::size_t>(blank_id) >= log_probs.vocab)) {
    Refuse("blank_id is ", blank_id, ", but log_probs has tokens 0 to ",
           static_cast<std::int64_t>(log_probs.vocab) - 1);
  }
  if (lengths.empty()) return;
  if (lengths.size() != log_probs.batch) {
    Refuse("lengths has ", lengths.size(), " values for a batch of ", log_probs.batch,
           " utterances");
  }
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0 || static_cast<std::size_t>(lengths[i]) > log_probs.time) {
      Refuse("utterance ", i, ": its length is ", lengths[i], ", but log_probs has frames 0 to ",
             static_cast<std::int64_t>(log_probs.time) - 1, " (lengths must be from 0 to ",
             log_probs.time, ")");
    }
  }
}

struct Worker {
  explicit Worker(const CtcBeamOptions& options) : search(options) {}

  CtcPrefixBeamSearch search;
  CtcAligner aligner;
};

}  // namespace

std::vector<std::vector<Hypothesis>> DecodeBatch(const BatchView& log_probs,
                                                 Span<const std::int64_t> lengths,
                                                 const CtcBeamOptions& options,
                                                 std::size_t num_threads) {
  options.Validate();
  CheckBatch(log_probs, lengths, options.blank_id);
  std::vector<std::vector<Hypothesis>> results(log_probs.batch);
  std::vector<std::unique_ptr<Worker>> workers(std::max(num_threads, std::size_t{1}));
  ParallelFor(log_probs.batch, num_threads, [&](std::size_t w, std::size_t i) {
    const std::size_t length =
        lengths.empty() ? log_probs.time : static_cast<std::size_t>(lengths[i]);
    const LogProbs utterance = log_probs.utterance(i, length);
    if (!workers[w]) workers[w] = std::make_unique<Worker>(options);
    CtcPrefixBeamSearch& search = workers[w]->search;
    CtcAligner& aligner = workers[w]->aligner;
    search.Start();
    if (const auto frame = search.Feed(utterance)) {
      RefuseRow(utterance.row(*frame),
                "utterance " + std::to_string(i) + ", frame " + std::to_string(*frame));
    }
    std::vector<Hypothesis> hypotheses = search.Results();
    aligner.Start(utterance, options.blank_id, search.row_maxima());
    for (Hypothesis& hypothesis : hypotheses) aligner.Align(&hypothesis);
    results[i] = std::move(hypotheses);
  });
  return results;
}

Hypothesis AlignTokens(LogProbs log_probs, std::vector<std::int32_t> token_ids,
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
  Hypothesis hypothesis;
  hypothesis.token_ids = std::move(token_ids);
  CtcAligner aligner;
  aligner.Start(log_probs, blank_id, row_maxima);
  aligner.Align(&hypothesis);
  return hypothesis;
}

}  // namespace voxformer
