#include "row_scan.h"

#include <limits>

namespace voxformer {
namespace {

// Blocks that a compiler turns into whichever vectors the target has; tokens are looked for only in
// blocks whose maximum passes.
RowScan ScanRowPortable(const float* row, std::size_t size, float threshold, std::int32_t* tokens) {
  constexpr std::size_t kBlock = 16;
  RowScan result = {0, -std::numeric_limits<float>::infinity(), false};
  for (std::size_t first = 0; first < size; first += kBlock) {
    const std::size_t last = size - first < kBlock ? size : first + kBlock;
    float max = -std::numeric_limits<float>::infinity();
    int bad = 0;
    for (std::size_t i = first; i < last; ++i) {
      max = row[i] > max ? row[i] : max;
      bad |= row[i] <= std::numeric_limits<float>::max() ? 0 : 1;
    }
    result.bad = result.bad || bad != 0;
    if (max > result.max) result.max = max;
    if (!(max >= threshold)) continue;
    for (std::size_t i = first; i < last; ++i) {
      if (row[i] >= threshold) tokens[result.count++] = static_cast<std::int32_t>(i);
    }
  }
  return result;
}

struct Available {
  ScanKernel kernels[3];
  std::size_t count = 0;

  Available() noexcept {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) kernels[count++] = {"avx512", &ScanRowAvx512};
    if (__builtin_cpu_supports("avx2")) kernels[count++] = {"avx2", &ScanRowAvx2};
#endif
    kernels[count++] = {"portable", &ScanRowPortable};
  }
};

}  // namespace

const ScanKernel* ScanKernels(std::size_t* count) noexcept {
  static const Available available;
  *count = available.count;
  return available.kernels;
}

ScanRow FastestScan() noexcept {
  std::size_t count = 0;
  return ScanKernels(&count)[0].scan;
}

}  // namespace voxformer
