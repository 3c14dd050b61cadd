#include "decimal.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace voxformer {

std::optional<double> ParseDecimal(std::string_view text) noexcept {
  static constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                       1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  constexpr int kExactPowers = 22;
  constexpr int kLargestExponent = 9999;
  // Digits that the mantissa has no room for count for its magnitude alone.
  constexpr std::uint64_t kFullMantissa = 1000000000000000000ULL;
  std::size_t at = 0;
  const auto peek = [&] { return at < text.size() ? text[at] : '\0'; };
  const auto is_digit = [&] { return peek() >= '0' && peek() <= '9'; };

  const bool negative = peek() == '-';
  if (negative || peek() == '+') ++at;
  std::uint64_t mantissa = 0;
  int exponent = 0;
  bool fraction = false;
  bool any_digit = false;
  for (; is_digit() || (peek() == '.' && !fraction); ++at) {
    if (peek() == '.') {
      fraction = true;
      continue;
    }
    any_digit = true;
    if (mantissa < kFullMantissa) {
      mantissa = mantissa * 10 + static_cast<std::uint64_t>(peek() - '0');
      exponent -= fraction ? 1 : 0;
    } else {
      exponent += fraction ? 0 : 1;
    }
  }
  if (!any_digit) return std::nullopt;
  if (peek() == 'e' || peek() == 'E') {
    ++at;
    const bool down = peek() == '-';
    if (down || peek() == '+') ++at;
    if (!is_digit()) return std::nullopt;
    int power = 0;
    for (; is_digit(); ++at) power = std::min(power * 10 + (peek() - '0'), kLargestExponent);
    exponent += down ? -power : power;
  }
  if (at != text.size()) return std::nullopt;

  double value = static_cast<double>(mantissa);
  if (exponent < 0 && exponent >= -kExactPowers) {
    value /= kPowers[-exponent];
  } else if (exponent >= 0 && exponent <= kExactPowers) {
    value *= kPowers[exponent];
  } else if (mantissa != 0) {
    value *= std::pow(10.0, exponent);
  }
  return negative ? -value : value;
}

}  // namespace voxformer
