// AVX2 pieces that the kernels of integer pages share: tiles, levels, scales of rows. Include only
// from kernel files.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kvcodec/int_kernels.h"
#include "simd/target.h"

namespace phasor {

// As IntKernels has it (int_values_avx2.cc).
void AccumulateIntAvx2(const IntAccumulateArgs& args);

}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

PHASOR_INLINE __m256i Load256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
PHASOR_INLINE __m128i Load128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
PHASOR_INLINE __m256i Broadcast4(const void* p) {
  int32_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return _mm256_set1_epi32(x);
}
PHASOR_INLINE __m256i Broadcast8(const void* p) {
  int64_t x;
  __builtin_memcpy(&x, p, sizeof(x));
  return _mm256_set1_epi64x(x);
}
PHASOR_INLINE __m256 LoadF16(const uint16_t* p) { return _mm256_cvtph_ps(Load128(p)); }

// The levels of up to 32 (book, code) pairs. What is or-ed to the codes for either table: bit 3
// from the book, and the sign bit where the other table has the level (pshufb leaves 0 there). Both
// come from the low bits of the row's scale.
struct Selector {
  __m256i first, second;
};
template <int BOOK_BITS>
struct Table {
  __m256i level[2];
  explicit Table(const IntLevels& levels) {
    level[0] = _mm256_broadcastsi128_si256(Load128(levels.level));
    level[1] = _mm256_broadcastsi128_si256(Load128(levels.level + 16));
  }
  PHASOR_INLINE __m256i Lookup(__m256i code, const Selector& s) const {
    if (BOOK_BITS == 0) return _mm256_shuffle_epi8(level[0], code);
    return _mm256_or_si256(_mm256_shuffle_epi8(level[0], _mm256_or_si256(code, s.first)),
                           _mm256_shuffle_epi8(level[1], _mm256_or_si256(code, s.second)));
  }
  // From the low byte of each scale, repeated as the levels need it. One book bit: bit 0 chooses
  // the table. Two: bit 0 is bit 3 of the index, bit 1 chooses the table.
  PHASOR_INLINE static Selector Select(__m256i scale_byte) {
    if (BOOK_BITS == 0) return {scale_byte, scale_byte};
    const __m256i sign = _mm256_set1_epi8(-128);
    const __m256i choice =
        _mm256_and_si256(_mm256_slli_epi16(scale_byte, BOOK_BITS == 1 ? 7 : 6), sign);
    const __m256i other = _mm256_xor_si256(choice, sign);
    if (BOOK_BITS == 1) return {choice, other};
    const __m256i low = _mm256_and_si256(_mm256_slli_epi16(scale_byte, 3), _mm256_set1_epi8(8));
    return {_mm256_or_si256(choice, low), _mm256_or_si256(other, low)};
  }
};

// Half a tile (8 lanes, `half` 0 or 1): its packed bits, and the codes of step s as bytes.
template <int BITS>
struct Tile;

template <>
struct Tile<4> {
  static constexpr int kBytes = 64, kSteps = 2;
  __m256i byte;
  PHASOR_INLINE void Load(const std::byte* p, int half) { byte = Load256(p + 32 * half); }
  PHASOR_INLINE __m256i Codes(int s) const {
    return _mm256_and_si256(s == 0 ? byte : _mm256_srli_epi16(byte, 4), _mm256_set1_epi8(15));
  }
};

template <>
struct Tile<8> {
  static constexpr int kBytes = 128, kSteps = 2;
  const std::byte* bytes;
  PHASOR_INLINE void Load(const std::byte* p, int half) { bytes = p + 32 * half; }
  PHASOR_INLINE __m256i Codes(int s) const { return Load256(bytes + 64 * s); }
};

template <>
struct Tile<3> {
  static constexpr int kBytes = 96, kSteps = 4;
  __m256i low, high;  // bit s of a byte of `high` comes from bit s + 2
  PHASOR_INLINE void Load(const std::byte* p, int half) {
    low = Load256(p + 32 * half);
    const __m256i h = Load256(p + 64);
    high = half == 0 ? _mm256_slli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(15)), 2)
                     : _mm256_srli_epi16(_mm256_and_si256(h, _mm256_set1_epi8(-16)), 2);
  }
  PHASOR_INLINE __m256i Codes(int s) const {
    const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, 2 * s), _mm256_set1_epi8(3));
    return _mm256_or_si256(a, _mm256_and_si256(_mm256_srli_epi16(high, s), _mm256_set1_epi8(4)));
  }
};

// acc + x. The barrier keeps g++ from regrouping the sums of unrolled steps, which costs registers.
PHASOR_INLINE void Add(__m256i x, __m256i* acc) {
  *acc = _mm256_add_epi32(*acc, x);
  __asm__("" : "+x"(*acc));
}

PHASOR_INLINE __m256i WidenLow(__m256i x) {
  return _mm256_cvtepi8_epi16(_mm256_castsi256_si128(x));
}
PHASOR_INLINE __m256i WidenHigh(__m256i x) {
  return _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1));
}
// acc: two partial sums of each of lanes 0-3, and of 4-7.
PHASOR_INLINE __m256i SumPairs(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8);
}

PHASOR_INLINE float Largest(__m256 x) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// The scales of 128 rows of values, taken apart.
struct RowScales {
  alignas(32) float scale[kPageTokens];    // magnitudes
  alignas(32) uint8_t first[kPageTokens];  // Selector of each token
  alignas(32) uint8_t second[kPageTokens];
  alignas(32) int8_t sign[kPageTokens];  // 1 or -1

  PHASOR_INLINE Selector SelectorOf(int t) const {
    return {Broadcast4(first + t), Broadcast4(second + t)};
  }
};

template <int BOOK_BITS>
PHASOR_INLINE void LoadScales(const uint16_t* scales, RowScales* out) {
  const __m256i magnitude = _mm256_set1_epi16(0x7fff);
  for (int t = 0; t < kPageTokens; t += 32) {
    const __m256i a = Load256(scales + t), b = Load256(scales + t + 16);
    const __m256i byte = _mm256_set1_epi16(255);
    const __m256i low = _mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    const __m256i negative = _mm256_packs_epi16(_mm256_srai_epi16(a, 15), _mm256_srai_epi16(b, 15));
    const Selector selector = Table<BOOK_BITS>::Select(_mm256_permute4x64_epi64(low, 0xd8));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out->first + t), selector.first);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out->second + t), selector.second);
    _mm256_store_si256(
        reinterpret_cast<__m256i*>(out->sign + t),
        _mm256_or_si256(_mm256_permute4x64_epi64(negative, 0xd8), _mm256_set1_epi8(1)));
    const __m256i pa = _mm256_and_si256(a, magnitude), pb = _mm256_and_si256(b, magnitude);
    _mm256_store_ps(out->scale + t, _mm256_cvtph_ps(_mm256_castsi256_si128(pa)));
    _mm256_store_ps(out->scale + t + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(pa, 1)));
    _mm256_store_ps(out->scale + t + 16, _mm256_cvtph_ps(_mm256_castsi256_si128(pb)));
    _mm256_store_ps(out->scale + t + 24, _mm256_cvtph_ps(_mm256_extracti128_si256(pb, 1)));
  }
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
