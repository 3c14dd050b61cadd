// Compiled for AVX2; row_scan.h says what that forbids.
#include <immintrin.h>

#include "row_scan.h"

namespace voxformer {

RowScan ScanRowAvx2(const float* row, std::size_t size, float threshold, std::int32_t* tokens) {
  const __m256 largest = _mm256_set1_ps(__FLT_MAX__);
  const __m256 least = _mm256_set1_ps(threshold);
  __m256 max0 = _mm256_set1_ps(-__builtin_inff());
  __m256 max1 = max0;
  __m256 bad = _mm256_setzero_ps();
  std::size_t count = 0;
  std::size_t i = 0;
  for (; i + 16 <= size; i += 16) {
    const __m256 x0 = _mm256_loadu_ps(row + i);
    const __m256 x1 = _mm256_loadu_ps(row + i + 8);
    max0 = _mm256_max_ps(max0, x0);
    max1 = _mm256_max_ps(max1, x1);
    bad = _mm256_or_ps(bad, _mm256_or_ps(_mm256_cmp_ps(x0, largest, _CMP_NLE_UQ),
                                         _mm256_cmp_ps(x1, largest, _CMP_NLE_UQ)));
    const __m256 pass0 = _mm256_cmp_ps(x0, least, _CMP_GE_OQ);
    const __m256 pass1 = _mm256_cmp_ps(x1, least, _CMP_GE_OQ);
    unsigned pass = static_cast<unsigned>(_mm256_movemask_ps(pass0)) |
                    (static_cast<unsigned>(_mm256_movemask_ps(pass1)) << 8);
    for (; __builtin_expect(pass != 0, 0); pass &= pass - 1) {
      tokens[count++] = static_cast<std::int32_t>(i) + __builtin_ctz(pass);
    }
  }
  alignas(32) float maxima[8];
  _mm256_store_ps(maxima, _mm256_max_ps(max0, max1));
  float max = maxima[0];
  for (int lane = 1; lane < 8; ++lane) max = maxima[lane] > max ? maxima[lane] : max;
  bool wrong = _mm256_movemask_ps(bad) != 0;
  for (; i < size; ++i) {
    max = row[i] > max ? row[i] : max;
    wrong = wrong || !(row[i] <= __FLT_MAX__);
    if (row[i] >= threshold) tokens[count++] = static_cast<std::int32_t>(i);
  }
  return {count, max, wrong};
}

}  // namespace voxformer
