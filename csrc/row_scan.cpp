#include "row_scan.h"

#include <limits>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

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

#if defined(__x86_64__)
struct Extensions {
  bool avx2 = false;
  bool avx512f = false;
};

// Asks the CPU itself: __builtin_cpu_supports is answered by the compiler's runtime library, and
// Zig's says no to everything.
Extensions ExtensionsOfThisCpu() noexcept {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned kSavesExtendedState = 1U << 27;  // OSXSAVE, without which xgetbv is illegal
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kSavesExtendedState) == 0) return {};
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return {};
  // XCR0: the registers that the operating system keeps when it switches threads.
  unsigned kept = 0;
  __asm__("xgetbv" : "=a"(kept), "=d"(edx) : "c"(0));
  constexpr unsigned kYmm = 0x06;  // and the XMM that they extend
  constexpr unsigned kZmm = 0xe6;  // and the masks
  return {(ebx & (1U << 5)) != 0 && (kept & kYmm) == kYmm,
          (ebx & (1U << 16)) != 0 && (kept & kZmm) == kZmm};
}
#endif

struct Available {
  ScanKernel kernels[3];
  std::size_t count = 0;

  Available() noexcept {
#if defined(__x86_64__)
    const Extensions extensions = ExtensionsOfThisCpu();
    if (extensions.avx512f) kernels[count++] = {"avx512", &ScanRowAvx512};
    if (extensions.avx2) kernels[count++] = {"avx2", &ScanRowAvx2};
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
