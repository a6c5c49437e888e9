// Helpers shared by the weight formats: unaligned little-endian fields, and a decoder made from an
// unpacker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "contracts/weight_codec.h"
#include "tensor/half.h"

namespace phasor {

inline constexpr int64_t kSuperBlock = 256;  // weights per super-block of the K types

inline uint8_t LoadU8(const std::byte* p) { return static_cast<uint8_t>(*p); }

inline float LoadF16(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return F16ToF32(bits);
}

inline uint32_t LoadU32(const std::byte* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}

// The same scale and offset for all 32 weights.
inline void SetUniformScale(float scale, float offset, CodeBlock* out) {
  out->scale[0] = out->scale[1] = scale;
  out->offset[0] = out->offset[1] = offset;
}

// WeightCodecInfo::decode of an integer format. Symmetric forms multiply the signed code, as the
// format defines them: one rounding instead of two.
template <void (*kUnpack)(const std::byte*, int64_t, CodeBlock*), int kZeroCode>
void DecodeByUnpacking(const std::byte* blocks, int64_t n, float* out) {
  CodeBlock block;
  for (int64_t b = 0; b < n / kCodeBlock; ++b) {
    kUnpack(blocks, b, &block);
    for (int i = 0; i < kCodeBlock; ++i) {
      int half = i / 16;
      if constexpr (kZeroCode != 0) {
        out[b * kCodeBlock + i] =
            block.scale[half] * static_cast<float>(static_cast<int>(block.code[i]) - kZeroCode);
      } else {
        out[b * kCodeBlock + i] =
            block.scale[half] * static_cast<float>(block.code[i]) + block.offset[half];
      }
    }
  }
}

// Sub-block j (0-7) of the 12 bytes in which Q4_K and Q5_K keep eight 6-bit scales and eight 6-bit
// offsets: the first four of each lie whole in bytes 0-3 and 4-7; the last four have their low four
// bits in bytes 8-11 and their high two in the spare bits of bytes 0-7.
inline void UnpackSixBitPair(const std::byte* packed, int j, int* scale, int* offset) {
  if (j < 4) {
    *scale = LoadU8(packed + j) & 63;
    *offset = LoadU8(packed + j + 4) & 63;
    return;
  }
  int low = LoadU8(packed + j + 4);
  *scale = (low & 15) | (LoadU8(packed + j - 4) >> 6 << 4);
  *offset = (low >> 4) | (LoadU8(packed + j) >> 6 << 4);
}

// Scale and offset of sub-block j of a Q4_K or Q5_K super-block: d, dmin, then the 12 bytes.
inline void SetSuperAffineScale(const std::byte* super_block, int j, CodeBlock* out) {
  int scale, offset;
  UnpackSixBitPair(super_block + 4, j, &scale, &offset);
  out->super_scale = LoadF16(super_block);
  out->super_offset = LoadF16(super_block + 2);
  out->sub_scale[0] = out->sub_scale[1] = static_cast<int8_t>(scale);
  out->sub_offset[0] = out->sub_offset[1] = static_cast<int8_t>(offset);
  SetUniformScale(out->super_scale * static_cast<float>(scale),
                  -(out->super_offset * static_cast<float>(offset)), out);
}

}  // namespace phasor
