#include "penalties.h"

#include <algorithm>
#include <cmath>

namespace voxformer {

double LengthNorm(std::size_t num_tokens, double length_penalty) noexcept {
  if (length_penalty == 0.0) return 1.0;
  return std::pow((5.0 + static_cast<double>(num_tokens)) / 6.0, length_penalty);
}

double FinalScore(double acoustic, double weighted_lm, std::size_t num_tokens, double length_bonus,
                  double length_penalty) noexcept {
  const double total = acoustic + weighted_lm + length_bonus * static_cast<double>(num_tokens);
  return total / LengthNorm(num_tokens, length_penalty);
}

void AppendNgramBans(Span<const std::int32_t> token_ids, std::int64_t order,
                     std::vector<std::int32_t>* banned) {
  if (order <= 0 || token_ids.size() < static_cast<std::size_t>(order)) return;
  const std::size_t context = static_cast<std::size_t>(order) - 1;
  const std::int32_t* tail = token_ids.end() - context;
  for (std::size_t start = 0; start + context < token_ids.size(); ++start) {
    const std::int32_t* head = token_ids.begin() + start;
    if (std::equal(head, head + context, tail)) banned->push_back(head[context]);
  }
}

}  // namespace voxformer
