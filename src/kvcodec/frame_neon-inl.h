// NEON pieces that scores and pages of frame codecs share. Include only from kernel files.
#pragma once

#include <cstddef>

#include "kvcodec/frame.h"
#include "simd/neon-inl.h"

namespace phasor {

// As FrameKernels has them (frame_page_neon.cc); both levels use these.
void EncodeFrameNeon(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
void DecodeFrameNeon(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD);

}  // namespace phasor

PHASOR_BEGIN_NEON
namespace phasor {
namespace {

PHASOR_INLINE float32x4_t Clamp(float32x4_t x, float limit) {
  return vmaxq_f32(vminq_f32(x, vdupq_n_f32(limit)), vdupq_n_f32(-limit));
}

// Codes of 4 tokens of one tile of a quad: byte 4 t + k is token t, slot k. quad: at the first of
// the tokens, 16 bytes for four.
template <int kBits, int kTile>
PHASOR_INLINE uint8x16_t TileCodes(const std::byte* quad) {
  constexpr bool k4 = (kBits & 4) != 0, k2 = (kBits & 2) != 0, k1 = (kBits & 1) != 0;
  constexpr int at2 = k4 ? 4 : 0, at1 = at2 + (k2 ? 2 : 0);
  const std::byte* part2 = quad + (k4 ? 256 : 0);
  const std::byte* part1 = part2 + (k2 ? 128 : 0);
  uint8x16_t code = vdupq_n_u8(0);
  if constexpr (k4) {
    code = ShiftBytes(LoadBytes(quad + 64 * (kTile / 2)), -4 * (kTile % 2));
    if constexpr (kTile % 2 == 0) code = vandq_u8(code, vdupq_n_u8(15));
  }
  if constexpr (k2) {
    const uint8x16_t part =
        vandq_u8(ShiftBytes(LoadBytes(part2 + 64 * (kTile / 4)), at2 - 2 * (kTile % 4)),
                 vdupq_n_u8(3 << at2));
    code = k4 ? vorrq_u8(code, part) : part;
  }
  if constexpr (k1) {
    const uint8x16_t part =
        vandq_u8(ShiftBytes(LoadBytes(part1), at1 - kTile), vdupq_n_u8(1 << at1));
    code = k4 || k2 ? vorrq_u8(code, part) : part;
  }
  return code;
}

}  // namespace
}  // namespace phasor
PHASOR_END_NEON
