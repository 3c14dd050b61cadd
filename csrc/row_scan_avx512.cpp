// Compiled for AVX-512F; row_scan.h says what that forbids.
#include <immintrin.h>

#include "row_scan.h"

namespace voxformer {

RowScan ScanRowAvx512(const float* row, std::size_t size, float threshold, std::int32_t* tokens) {
  const __m512 largest = _mm512_set1_ps(__FLT_MAX__);
  const __m512 least = _mm512_set1_ps(threshold);
  const __m512 nothing = _mm512_set1_ps(-__builtin_inff());
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m512 max0 = nothing;
  __m512 max1 = nothing;
  unsigned bad = 0;
  std::size_t count = 0;
  std::size_t i = 0;
  for (; i + 32 <= size; i += 32) {
    const __m512 x0 = _mm512_loadu_ps(row + i);
    const __m512 x1 = _mm512_loadu_ps(row + i + 16);
    max0 = _mm512_max_ps(max0, x0);
    max1 = _mm512_max_ps(max1, x1);
    // Not less or equal is true for NaN, too.
    bad |= static_cast<unsigned>(_mm512_cmp_ps_mask(x0, largest, _CMP_NLE_UQ)) |
           static_cast<unsigned>(_mm512_cmp_ps_mask(x1, largest, _CMP_NLE_UQ));
    const __mmask16 pass0 = _mm512_cmp_ps_mask(x0, least, _CMP_GE_OQ);
    const __mmask16 pass1 = _mm512_cmp_ps_mask(x1, least, _CMP_GE_OQ);
    if (__builtin_expect((pass0 | pass1) == 0, 1)) continue;
    const __m512i ids = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(i)));
    _mm512_storeu_si512(tokens + count, _mm512_maskz_compress_epi32(pass0, ids));
    count += static_cast<std::size_t>(__builtin_popcount(pass0));
    const __m512i later = _mm512_add_epi32(ids, _mm512_set1_epi32(16));
    _mm512_storeu_si512(tokens + count, _mm512_maskz_compress_epi32(pass1, later));
    count += static_cast<std::size_t>(__builtin_popcount(pass1));
  }
  for (; i < size; i += 16) {
    const std::size_t left = size - i;
    const __mmask16 valid =
        left >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1U << left) - 1U);
    const __m512 x = _mm512_mask_loadu_ps(nothing, valid, row + i);
    max0 = _mm512_max_ps(max0, x);
    bad |= static_cast<unsigned>(_mm512_mask_cmp_ps_mask(valid, x, largest, _CMP_NLE_UQ));
    const __mmask16 pass = _mm512_mask_cmp_ps_mask(valid, x, least, _CMP_GE_OQ);
    const __m512i ids = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(i)));
    _mm512_storeu_si512(tokens + count, _mm512_maskz_compress_epi32(pass, ids));
    count += static_cast<std::size_t>(__builtin_popcount(pass));
  }
  return {count, _mm512_reduce_max_ps(_mm512_max_ps(max0, max1)), bad != 0};
}

}  // namespace voxformer
