// Codes of polar slots with AVX-512, 64 tokens of a slot in a vector of bytes: byte 4 l + k of
// block B belongs to token 16 (4 B + k) + l, as in the 8-bit parts (packed_field.h). Include only
// from kernel files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvcodec/polar_layout.h"
#include "simd/avx512.h"
#include "simd/target.h"

namespace phasor {
namespace {

// For vpmultishiftqb: where the bits of a part of each byte's token begin in 64 bits, kAt bits
// earlier, so that they arrive at bit kAt. [block][byte].
template <int kPart, int kAt>
struct PartShifts {
  alignas(64) std::array<uint8_t, 128> bit = {};
  constexpr PartShifts() {
    for (int i = 0; i < 128; ++i) {
      const int block = i / 64, lane = i % 64 / 4, k = i % 4;
      const int from = 32 * (lane % 2) + PartShift(kPart, 4 * block + k, lane);
      bit[static_cast<std::size_t>(i)] = static_cast<uint8_t>((from - kAt) & 63);
    }
  }
};
template <int kPart, int kAt>
inline constexpr PartShifts<kPart, kAt> kPartShifts;

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// Bits kAt .. kAt + kPart - 1 of every byte; the others are junk.
template <int kPart, int kAt>
PHASOR_INLINE __m512i PlacePart(const std::byte* page, const std::size_t* part, int block) {
  __m512i words;
  if constexpr (kPart == 4) {
    words = _mm512_loadu_si512(page + part[1]);
  } else if constexpr (kPart == 2) {
    words = _mm512_broadcast_i32x8(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(page + part[2])));
  } else {
    words =
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(page + part[3])));
  }
  const __m512i shifts = _mm512_load_si512(kPartShifts<kPart, kAt>.bit.data() + 64 * block);
  return _mm512_multishift_epi64_epi8(shifts, words);
}

// Puts a part above bit kAt of what is there.
template <int kPart, int kAt>
PHASOR_INLINE __m512i AddPart(__m512i code, const std::byte* page, const std::size_t* part,
                              int block) {
  const __m512i placed = PlacePart<kPart, kAt>(page, part, block);
  if constexpr (kAt == 0) return placed;
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(static_cast<char>((1 << kAt) - 1)), code,
                                   placed, 0xca);
}
template <int kBits, int kAt>
PHASOR_INLINE __m512i AddNarrowParts(__m512i code, const std::byte* page, const std::size_t* part,
                                     int block) {
  constexpr int at2 = kAt + (kBits & 4), at1 = at2 + (kBits & 2);
  if constexpr ((kBits & 4) != 0) code = AddPart<4, kAt>(code, page, part, block);
  if constexpr ((kBits & 2) != 0) code = AddPart<2, at2>(code, page, part, block);
  if constexpr ((kBits & 1) != 0) code = AddPart<1, at1>(code, page, part, block);
  return code;
}

// low: the low 8 bits of codes, junk above shorter ones. top: the top 8 bits, junk below shorter
// ones; with HasOneByte the same as low.
template <int kBits>
PHASOR_INLINE void CodeBytes(const std::byte* page, const std::size_t* part, int block,
                             __m512i* low, __m512i* top) {
  if constexpr (kBits < 8) {
    *low = AddNarrowParts<kBits, 0>(_mm512_setzero_si512(), page, part, block);
    *top = HasOneByte(kBits) ? *low : _mm512_slli_epi16(*low, 8 - kBits);
  } else {
    *low = _mm512_loadu_si512(page + part[0] + 64 * block);
    *top = *low;
    if constexpr (kBits > 8) {
      *top =
          AddNarrowParts<kBits, 16 - kBits>(_mm512_srli_epi16(*low, kBits - 8), page, part, block);
    }
  }
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
