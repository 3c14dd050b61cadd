// What is said of log-probs that are none.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "ctc_log_probs.h"
#include "span.h"

namespace voxformer {

// Throws std::invalid_argument that names the first value of `row` that is NaN or +inf. `where`
// says which row it is: "utterance 3, frame 17".
[[noreturn]] void RefuseRow(Span<const float> row, const std::string& where);

// The maximum of each row. Calls RefuseRow() unless all are sound, counting frames from
// `first_frame`.
std::vector<float> CheckRows(const CtcLogProbs& log_probs, std::size_t first_frame);

// Throws std::invalid_argument that names the first frame whose probabilities do not add up to 1,
// or add up to more where tokens are left out. `where` says whose frames these are: "utterance 3,
// ".
void CheckSums(const CtcLogProbs& log_probs, const std::string& where, std::size_t first_frame);

// Throws std::invalid_argument that names the first frame with an id that is not in the vocabulary.
void CheckIds(const CtcLogProbs& log_probs, const std::string& where);

}  // namespace voxformer
