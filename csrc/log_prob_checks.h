// What is said of log-probs that are none.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "span.h"

namespace voxformer {

// Throws std::invalid_argument that names the first value of `row` that is NaN or +inf. `where`
// says which row it is: "utterance 3, frame 17".
[[noreturn]] void RefuseRow(Span<const float> row, const std::string& where);

// The maximum of each row. Calls RefuseRow() unless all are sound, counting frames from
// `first_frame`.
std::vector<float> CheckRows(LogProbs log_probs, std::size_t first_frame);

}  // namespace voxformer
