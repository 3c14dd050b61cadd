#include "log_prob_checks.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "row_scan.h"

namespace voxformer {

void RefuseRow(Span<const float> row, const std::string& where) {
  std::size_t token = 0;
  while (row[token] <= std::numeric_limits<float>::max()) ++token;
  throw std::invalid_argument(
      where + ": log_probs is " + (std::isnan(row[token]) ? "NaN" : "+inf") + " for token " +
      std::to_string(token) + "; natural logarithms of probabilities are expected");
}

std::vector<float> CheckRows(LogProbs log_probs, std::size_t first_frame) {
  const ScanRow scan = FastestScan();
  std::vector<float> row_maxima(log_probs.rows());
  std::vector<std::int32_t> none(kScanPadding);
  for (std::size_t t = 0; t < log_probs.rows(); ++t) {
    const Span<const float> row = log_probs.row(t);
    // No sound value reaches the threshold, so nothing is written.
    const RowScan scanned =
        scan(row.data(), row.size(), std::numeric_limits<float>::infinity(), none.data());
    if (scanned.bad) RefuseRow(row, "frame " + std::to_string(first_frame + t));
    row_maxima[t] = scanned.max;
  }
  return row_maxima;
}

}  // namespace voxformer
