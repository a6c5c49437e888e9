// AVX2 pieces that scores and pages of frame codecs share. Include only from kernel files.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "kvcodec/frame.h"
#include "kvcodec/page_avx2-inl.h"
#include "simd/target.h"

namespace phasor {

// As FrameKernels has them (frame_page_avx2.cc).
void EncodeFrameAvx2(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
void DecodeFrameAvx2(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD);

}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

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
