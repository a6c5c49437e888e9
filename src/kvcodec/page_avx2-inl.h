// AVX2 pieces that the kernels of several paged codecs share. Include only from kernel files.
#pragma once

#include <immintrin.h>

#include "kvcodec/polar_grid.h"
#include "simd/target.h"

// GCC 12 takes the deliberately undefined register inside its own intrinsics for a mistake
// (gcc.gnu.org bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

PHASOR_INLINE __m256 Set(float x) { return _mm256_set1_ps(x); }
PHASOR_INLINE __m256i LoadBytes(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}
PHASOR_INLINE void StoreBytes(void* at, __m256i x) {
  _mm256_storeu_si256(static_cast<__m256i*>(at), x);
}
PHASOR_INLINE __m256i Broadcast16(const void* at) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(at)));
}
PHASOR_INLINE float SumLanes(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
PHASOR_INLINE float MaxLanes(__m256 x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
PHASOR_INLINE __m256 Clamp(__m256 x, float limit) {
  return _mm256_max_ps(_mm256_min_ps(x, Set(limit)), Set(-limit));
}

// acc + x in words of 16 bits. Without the barrier g++ keeps sums twice, once of them in memory.
PHASOR_INLINE void AddWords(__m256i x, __m256i* acc) {
  *acc = _mm256_add_epi16(*acc, x);
  __asm__("" : "+x"(*acc));
}

// Moves bits up by kBy, or down by -kBy, in words of 16 bits: callers mask what is not theirs.
template <int kBy>
PHASOR_INLINE __m256i Shift(__m256i x) {
  if constexpr (kBy > 0) return _mm256_slli_epi16(x, kBy);
  if constexpr (kBy < 0) return _mm256_srli_epi16(x, -kBy);
  return x;
}

// Cosine and sine of an angle in turns, |turns| <= 2, as SinCosTurns.
PHASOR_INLINE void SinCos8(__m256 turns, __m256* sine, __m256* cosine) {
  const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(turns, Set(4.0f)));
  const __m256 x = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(q), Set(0.25f), turns);
  const __m256 x2 = _mm256_mul_ps(x, x);
  __m256 s = Set(kSinTurns[3]), c = Set(kCosTurns[4]);
  PHASOR_UNROLL for (int i = 2; i >= 0; --i) s = _mm256_fmadd_ps(s, x2, Set(kSinTurns[i]));
  PHASOR_UNROLL for (int i = 3; i >= 0; --i) c = _mm256_fmadd_ps(c, x2, Set(kCosTurns[i]));
  s = _mm256_mul_ps(s, x);
  const __m256 swap = _mm256_castsi256_ps(_mm256_slli_epi32(q, 31));
  const __m256 s2 = _mm256_blendv_ps(s, c, swap), c2 = _mm256_blendv_ps(c, s, swap);
  const __m256i sign = _mm256_set1_epi32(static_cast<int>(0x80000000u));
  const __m256i s_sign = _mm256_and_si256(_mm256_slli_epi32(q, 30), sign);
  const __m256i c_sign =
      _mm256_and_si256(_mm256_slli_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(1)), 30), sign);
  *sine = _mm256_xor_ps(s2, _mm256_castsi256_ps(s_sign));
  *cosine = _mm256_xor_ps(c2, _mm256_castsi256_ps(c_sign));
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
