// Sums and maxima across the lanes of eight vectors at once. Include only from kernel files.
#pragma once

#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// Sums of 8 vectors: lane i of the result is the sum over v[i].
PHASOR_INLINE __m256 SumRows(const __m512 v[8]) {
  // Each step halves the number of vectors and of terms; the comments name what 128-bit lanes hold.
  __m512 a[4];
  PHASOR_UNROLL for (int i = 0; i < 4; ++i) {  // i, i, i + 4, i + 4
    a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x44),
                         _mm512_shuffle_f32x4(v[i], v[i + 4], 0xee));
  }
  __m512 b[2];
  PHASOR_UNROLL for (int i = 0; i < 2; ++i) {  // i, i + 4, i + 2, i + 6
    b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 2], 0x88),
                         _mm512_shuffle_f32x4(a[i], a[i + 2], 0xdd));
  }
  __m512 c = _mm512_add_ps(_mm512_unpacklo_ps(b[0], b[1]), _mm512_unpackhi_ps(b[0], b[1]));
  c = _mm512_add_ps(c, _mm512_permute_ps(c, 0x4e));  // low halves of lanes: 0 1, 4 5, 2 3, 6 7
  const __m512i order = _mm512_setr_epi64(0, 4, 2, 6, 0, 0, 0, 0);
  return _mm512_castps512_ps256(
      _mm512_castpd_ps(_mm512_permutexvar_pd(order, _mm512_castps_pd(c))));
}

// As SumRows, the largest instead of the sum.
PHASOR_INLINE __m256 MaxRows(const __m512 v[8]) {
  __m512 a[4];
  PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_max_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x44),
                         _mm512_shuffle_f32x4(v[i], v[i + 4], 0xee));
  }
  __m512 b[2];
  PHASOR_UNROLL for (int i = 0; i < 2; ++i) {
    b[i] = _mm512_max_ps(_mm512_shuffle_f32x4(a[i], a[i + 2], 0x88),
                         _mm512_shuffle_f32x4(a[i], a[i + 2], 0xdd));
  }
  __m512 c = _mm512_max_ps(_mm512_unpacklo_ps(b[0], b[1]), _mm512_unpackhi_ps(b[0], b[1]));
  c = _mm512_max_ps(c, _mm512_permute_ps(c, 0x4e));
  const __m512i order = _mm512_setr_epi64(0, 4, 2, 6, 0, 0, 0, 0);
  return _mm512_castps512_ps256(
      _mm512_castpd_ps(_mm512_permutexvar_pd(order, _mm512_castps_pd(c))));
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
