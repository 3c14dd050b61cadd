// A test is a function that returns if all holds; CHECK ends the program where it does not, so that
// CTest and the sanitizers see the exit status of a plain executable.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

namespace voxformer {

inline bool Near(double a, double b, double tolerance = 1e-6) {
  return a == b || std::fabs(a - b) <= tolerance;
}

// The message of the Exception that `call` throws; ends the program if it throws none.
template <typename Exception, typename Call>
std::string Message(const Call& call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  }
  std::fprintf(stderr, "nothing was thrown\n");
  std::exit(1);
}

inline bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace voxformer
