// What the matrix kernels for AVX-512 and AMX share: blocks of panels in registers. Include only
// from kernel files.
#pragma once

#include <cstring>

#include "ops/matmul_kernels.h"
#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

PHASOR_INLINE __m512i LoadVector(const std::byte* p) { return _mm512_loadu_si512(p); }

PHASOR_INLINE __m512 LoadHalves(const std::byte* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

PHASOR_INLINE __m512 LoadBytes(const std::byte* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// a | (b & mask)
PHASOR_INLINE __m512i OrMasked(__m512i a, __m512i b, __m512i mask) {
  return _mm512_ternarylogic_epi32(a, b, mask, 0xf8);
}

template <int kBits>
PHASOR_INLINE void LoadCodes(const std::byte* p, __m512i (&c)[8]) {
  if constexpr (kBits == 8) {
    PHASOR_UNROLL
    for (int v = 0; v < 8; ++v) c[v] = LoadVector(p + v * kCodeVectorBytes);
    return;
  }
  const __m512i nibble = _mm512_set1_epi8(15);
  PHASOR_UNROLL
  for (int i = 0; i < 4; ++i) {
    __m512i pair = LoadVector(p + i * kCodeVectorBytes);
    c[2 * i] = _mm512_and_si512(pair, nibble);
    c[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi32(pair, 4), nibble);
  }
  if constexpr (kBits == 5) {
    const __m512i fifth = _mm512_set1_epi8(16);
    const __m512i plane = LoadVector(p + 4 * kCodeVectorBytes);
    PHASOR_UNROLL
    for (int v = 0; v < 8; ++v) {
      // Bits that cross into a neighbouring byte fall outside the mask.
      __m512i bits = v < 4 ? _mm512_slli_epi32(plane, v < 4 ? 4 - v : 0)
                           : _mm512_srli_epi32(plane, v < 4 ? 0 : v - 4);
      c[v] = OrMasked(c[v], bits, fifth);
    }
  }
  if constexpr (kBits == 6) {
    const __m512i upper = _mm512_set1_epi8(0x30);
    PHASOR_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m512i plane = LoadVector(p + (4 + i) * kCodeVectorBytes);
      c[4 * i] = OrMasked(c[4 * i], _mm512_slli_epi32(plane, 4), upper);
      c[4 * i + 1] = OrMasked(c[4 * i + 1], _mm512_slli_epi32(plane, 2), upper);
      c[4 * i + 2] = OrMasked(c[4 * i + 2], plane, upper);
      c[4 * i + 3] = OrMasked(c[4 * i + 3], _mm512_srli_epi32(plane, 2), upper);
    }
  }
}

// Scale of a block, and where the form has one its offset or the scale of its second half.
template <int kBits, ScaleForm kForm>
PHASOR_INLINE void LoadScales(const std::byte* block, __m512 super_scale, __m512 super_offset,
                              __m512* scale, __m512* second) {
  const std::byte* scales = block + PanelLayout{kBits, kForm}.code_bytes();
  if constexpr (kForm == ScaleForm::kSymmetric) {
    *scale = LoadHalves(scales);
  } else if constexpr (kForm == ScaleForm::kAffine) {
    *scale = LoadHalves(scales);
    *second = LoadHalves(scales + 32);
  } else {
    *scale = _mm512_mul_ps(super_scale, LoadBytes(scales));
    *second = _mm512_mul_ps(super_offset, LoadBytes(scales + 16));
  }
}

// Factors of the next eight blocks; for kSuperHalves the second is the same as the first.
template <ScaleForm kForm>
PHASOR_INLINE void LoadSuper(const std::byte* header, __m512* super_scale, __m512* super_offset) {
  *super_scale = LoadHalves(header);
  *super_offset = kForm == ScaleForm::kSuperAffine
                      ? _mm512_sub_ps(_mm512_setzero_ps(), LoadHalves(header + 32))
                      : *super_scale;
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
