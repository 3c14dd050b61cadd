// The one pass over a frame of log-probs: what passes a threshold, the maximum, and whether every
// value is a log-prob at all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace voxformer {

struct RowScan {
  std::size_t count;  // tokens written
  float max;          // of the row; -inf where it is empty
  bool bad;           // a value is NaN or +inf; the rest then means nothing
};

// Writes the columns of `row` whose value is at least `threshold`, in ascending order, to `tokens`,
// which has room for `size` + kScanPadding.
using ScanRow = RowScan (*)(const float* row, std::size_t size, float threshold,
                            std::int32_t* tokens);

inline constexpr std::size_t kScanPadding = 16;

struct ScanKernel {
  const char* name;
  ScanRow scan;
};

// Those that this CPU runs, the fastest first. All give the same results; the last is portable.
const ScanKernel* ScanKernels(std::size_t* count) noexcept;

ScanRow FastestScan() noexcept;

#if defined(__x86_64__)
// Each is compiled for its instruction set in a file of its own. Such a file may use no inline
// function that others use, too: the linker could keep its copy for all, and older CPUs would die
// of it. That is why the two look alike and share nothing.
RowScan ScanRowAvx2(const float* row, std::size_t size, float threshold, std::int32_t* tokens);
RowScan ScanRowAvx512(const float* row, std::size_t size, float threshold, std::int32_t* tokens);
#endif

}  // namespace voxformer
