// NEON pieces that the loops over integer pages and their decoding share. Include only from kernel
// files.
#pragma once

#include <cstddef>

#include "kvcodec/int_kernels.h"
#include "simd/neon-inl.h"

namespace phasor {

// As IntKernels has them (int_page_neon.cc); both levels use these.
void DecodeIntNeon(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD);
void SearchIntNeon(const IntSearchArgs& args);

}  // namespace phasor

PHASOR_BEGIN_NEON
namespace phasor {
namespace {

// The levels of up to 32 (book, code) pairs; index: book << bits | code.
template <int BOOK_BITS>
struct Table {
  int8x16x2_t level;
  explicit Table(const IntLevels& levels) {
    level.val[0] = vld1q_s8(levels.level);
    level.val[1] = vld1q_s8(levels.level + 16);
  }
  PHASOR_INLINE int8x16_t Lookup(uint8x16_t index) const {
    return BOOK_BITS == 0 ? vqtbl1q_s8(level.val[0], index) : vqtbl2q_s8(level, index);
  }
};

// A tile: the codes of step s as bytes, lanes 4 v .. 4 v + 3.
template <int BITS>
struct Tile;

template <>
struct Tile<4> {
  static constexpr int kBytes = 64, kSteps = 2;
  PHASOR_INLINE static uint8x16_t Codes(const std::byte* tile, int s, int v) {
    const uint8x16_t byte = LoadBytes(tile + 16 * v);
    return s == 0 ? vandq_u8(byte, vdupq_n_u8(15)) : vshrq_n_u8(byte, 4);
  }
};

template <>
struct Tile<8> {
  static constexpr int kBytes = 128, kSteps = 2;
  PHASOR_INLINE static uint8x16_t Codes(const std::byte* tile, int s, int v) {
    return LoadBytes(tile + 64 * s + 16 * v);
  }
};

template <>
struct Tile<3> {
  static constexpr int kBytes = 96, kSteps = 4;
  PHASOR_INLINE static uint8x16_t Codes(const std::byte* tile, int s, int v) {
    const uint8x16_t low = LoadBytes(tile + 16 * v), high = LoadBytes(tile + 64 + 16 * (v % 2));
    // Bit s of lanes 0 .. 7, s + 4 of the others, comes to bit 2.
    const uint8x16_t a = vandq_u8(ShiftBytes(low, -2 * s), vdupq_n_u8(3));
    const uint8x16_t b = vandq_u8(ShiftBytes(high, 2 - s - 4 * (v / 2)), vdupq_n_u8(4));
    return vorrq_u8(a, b);
  }
};

// Book and sign of every token of a page for one block of channels, and the size of its scale.
struct BlockScales {
  alignas(16) float size[kPageTokens];
  alignas(16) uint8_t book[kPageTokens];  // << bits: or-ed to codes
  alignas(16) int8_t sign[kPageTokens];   // 1 or -1
};

template <int BITS, int BOOK_BITS>
PHASOR_INLINE void LoadScales(const uint16_t* scales, BlockScales* out) {
  for (int t = 0; t < kPageTokens; t += 8) {
    const uint16x8_t scale = vld1q_u16(scales + t);
    const float16x8_t size = vreinterpretq_f16_u16(vandq_u16(scale, vdupq_n_u16(0x7fff)));
    vst1q_f32(out->size + t, vcvt_f32_f16(vget_low_f16(size)));
    vst1q_f32(out->size + t + 4, vcvt_high_f32_f16(size));
    constexpr uint16_t kBooks = (1 << BOOK_BITS) - 1;
    const uint16x8_t book = vshlq_n_u16(vandq_u16(scale, vdupq_n_u16(kBooks)), BITS);
    vst1_u8(out->book + t, vmovn_u16(book));
    const int16x8_t negative = vshrq_n_s16(vreinterpretq_s16_u16(scale), 15);
    vst1_s8(out->sign + t, vmovn_s16(vorrq_s16(negative, vdupq_n_s16(1))));
  }
}

}  // namespace
}  // namespace phasor
PHASOR_END_NEON
