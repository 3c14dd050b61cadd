// Decimal numbers in text.
#pragma once

#include <optional>
#include <string_view>

namespace voxformer {

// The number that `text` is as a whole ("-2.5", "1e-3"), nothing if it is none; NaN and infinity
// have no decimal digits and are none. Within 2 units in the last place, and infinite where a
// double ends. strtod() would follow the locale, and std::from_chars for floating point is missing
// in the C++ library of some compilers that build the wheels.
std::optional<double> ParseDecimal(std::string_view text) noexcept;

}  // namespace voxformer
