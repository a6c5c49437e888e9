// AVX2 pieces that scores and pages of frame codecs share. Include only from kernel files.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "kvcodec/frame.h"
#include "simd/target.h"

// GCC 12 takes the deliberately undefined register inside its own intrinsics for a mistake
// (gcc.gnu.org bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace phasor {

// As FrameKernels has them (frame_page_avx2.cc).
void EncodeFrameAvx2(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
void DecodeFrameAvx2(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD);

}  // namespace phasor

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

// Moves bits up by kBy, or down by -kBy, in words of 16 bits: callers mask what is not theirs.
template <int kBy>
PHASOR_INLINE __m256i Shift(__m256i x) {
  if constexpr (kBy > 0) return _mm256_slli_epi16(x, kBy);
  if constexpr (kBy < 0) return _mm256_srli_epi16(x, -kBy);
  return x;
}

// Codes of tokens 8 kHalf .. 8 kHalf + 7 of one tile of a quad: byte 4 t + k is token t, slot k.
template <int kBits, int kTile, int kHalf>
PHASOR_INLINE __m256i TileCodes(const std::byte* quad) {
  constexpr bool k4 = (kBits & 4) != 0, k2 = (kBits & 2) != 0, k1 = (kBits & 1) != 0;
  constexpr int at2 = k4 ? 4 : 0, at1 = at2 + (k2 ? 2 : 0);
  const std::byte* part4 = quad + 32 * kHalf;
  const std::byte* part2 = part4 + (k4 ? 256 : 0);
  const std::byte* part1 = part2 + (k2 ? 128 : 0);
  __m256i code = _mm256_setzero_si256();
  if constexpr (k4) {
    code = _mm256_and_si256(Shift<-4 * (kTile % 2)>(LoadBytes(part4 + 64 * (kTile / 2))),
                            _mm256_set1_epi8(15));
  }
  if constexpr (k2) {
    const __m256i part =
        _mm256_and_si256(Shift<at2 - 2 * (kTile % 4)>(LoadBytes(part2 + 64 * (kTile / 4))),
                         _mm256_set1_epi8(3 << at2));
    code = k4 ? _mm256_or_si256(code, part) : part;
  }
  if constexpr (k1) {
    const __m256i part =
        _mm256_and_si256(Shift<at1 - kTile>(LoadBytes(part1)), _mm256_set1_epi8(1 << at1));
    code = k4 || k2 ? _mm256_or_si256(code, part) : part;
  }
  return code;
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
