// How bad input is answered.
#pragma once

#include <sstream>
#include <stdexcept>

namespace voxformer {

// Throws std::invalid_argument with the parts as its message.
template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

}  // namespace voxformer
