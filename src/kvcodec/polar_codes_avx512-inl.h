// Codes of polar slots with AVX-512, 64 tokens of a slot in a vector of bytes: byte 4 l + k of
// block B belongs to token 16 (4 B + k) + l, as in the 8-bit parts (packed_field.h). No include
// guard; to be included once by a kernel file, inside its region and namespace, behind
//   template <int kPart, int kAt> __m512i TakePart(__m512i words, int block): from the words of a
//   part, those it has less of than 16 repeated, bits kAt .. kAt + kPart - 1 of every byte, the
//   others junk.

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
  return TakePart<kPart, kAt>(words, block);
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
