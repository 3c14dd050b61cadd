#include "log_prob_checks.h"

#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>

#include "refuse.h"
#include "row_scan.h"

namespace voxformer {

void RefuseRow(Span<const float> row, const std::string& where) {
  std::size_t token = 0;
  while (row[token] <= std::numeric_limits<float>::max()) ++token;
  throw std::invalid_argument(
      where + ": log_probs is " + (std::isnan(row[token]) ? "NaN" : "+inf") + " for token " +
      std::to_string(token) + "; natural logarithms of probabilities are expected");
}

std::vector<float> CheckRows(const CtcLogProbs& log_probs, std::size_t first_frame) {
  const ScanRow scan = FastestScan();
  std::vector<float> row_maxima(log_probs.rows());
  std::vector<std::int32_t> none(kScanPadding);
  RowBuffer buffer;
  for (std::size_t t = 0; t < log_probs.rows(); ++t) {
    const Span<const float> row = log_probs.Row(t, &buffer);
    // Nothing compares with NaN, so that nothing is written: not even +inf, of which there may be
    // more than there is room for.
    const RowScan scanned =
        scan(row.data(), row.size(), std::numeric_limits<float>::quiet_NaN(), none.data());
    if (scanned.bad) RefuseRow(row, "frame " + std::to_string(first_frame + t));
    row_maxima[t] = scanned.max;
  }
  return row_maxima;
}

void CheckSums(const CtcLogProbs& log_probs, const std::string& where, std::size_t first_frame) {
  // Half precision has three digits; what is not a log-prob at all is off by far more.
  constexpr double kTolerance = 0.02;
  RowBuffer buffer;
  for (std::size_t t = 0; t < log_probs.rows(); ++t) {
    double sum = 0.0;
    for (const float value : log_probs.Row(t, &buffer)) {
      sum += std::exp(static_cast<double>(value));
    }
    if (sum <= 1.0 + kTolerance && (log_probs.IsTopK() || sum >= 1.0 - kTolerance)) continue;
    Refuse(where, "frame ", first_frame + t, ": the probabilities add up to ", sum,
           log_probs.IsTopK() ? ", more than 1" : ", not to 1",
           "; are these logits? Take their log-softmax first");
  }
}

void CheckIds(const CtcLogProbs& log_probs, const std::string& where) {
  const std::optional<CtcLogProbs::BadId> bad = log_probs.FirstBadId();
  if (!bad) return;
  Refuse(where, "frame ", bad->frame, ": id ", bad->id, " is not in the vocabulary of 0 to ",
         static_cast<std::int64_t>(log_probs.columns()) - 1);
}

}  // namespace voxformer
