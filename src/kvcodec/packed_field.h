// Codes of one row (a pair of dimensions) of 128 tokens, packed without waste.
//
// A code of b bits (1 <= b <= 15) is cut, from its low end, into the parts of b's binary form: 8,
// then 4, 2 and 1 bits (b = 6: four low bits, then two). Each part is stored by itself as
// little-endian 32-bit words. With i = token / 16 and lane = token % 16:
//   8 bits, 128 bytes: word 16 * (i / 4) + lane, shifted by 8 * (i % 4)
//   4 bits,  64 bytes: word lane,                shifted by 4 * i
//   2 bits,  32 bytes: word lane % 8,            shifted by 4 * i + 2 * (lane / 8)
//   1 bit,   16 bytes: word lane % 4,            shifted by 4 * i + lane / 4
// so 16 tokens in 16 lanes cost one load and one shift per part, and a permute that ignores high
// bits needs no mask.
#pragma once

#include <cstdint>
#include <cstring>

#include "contracts/kv_codec.h"

namespace phasor {

inline constexpr int kFieldParts[4] = {8, 4, 2, 1};

// Bytes of a part of `part_bits` bits of a whole page.
constexpr int PartBytes(int part_bits) { return part_bits * kPageTokens / 8; }

// Where the parts of one row lie; entries of parts that the width does not have are unused.
struct PartOffsets {
  uint32_t at[4] = {0, 0, 0, 0};  // bytes from the start of the page, order of kFieldParts
};

// Lanes of a part's words, and the shift of lane `lane` for tokens 16 i + lane. Written so that the
// loops below have no division and vectorise.
constexpr int PartLanes(int part_bits) { return part_bits >= 4 ? 16 : part_bits * 4; }
constexpr int PartShift(int part_bits, int i, int lane) {
  if (part_bits == 8) return 8 * (i % 4);
  return 4 * i + (part_bits == 4 ? 0 : part_bits * (lane / PartLanes(part_bits)));
}

template <int kPart>
inline void PackPart(const uint16_t* code_T, int position, std::byte* out) {
  constexpr int kLanes = PartLanes(kPart);
  uint32_t words[PartBytes(kPart) / 4] = {};
  for (int i = 0; i < kPageTokens / 16; ++i) {
    uint32_t* row = words + (kPart == 8 ? 16 * (i / 4) : 0);
    for (int lane = 0; lane < 16; ++lane) {
      const uint32_t value =
          (static_cast<uint32_t>(code_T[16 * i + lane]) >> position) & ((1u << kPart) - 1);
      row[lane % kLanes] |= value << PartShift(kPart, i, lane);
    }
  }
  std::memcpy(out, words, sizeof(words));
}

template <int kPart>
inline void UnpackPart(const std::byte* in, int position, uint16_t* code_T) {
  constexpr int kLanes = PartLanes(kPart);
  uint32_t words[PartBytes(kPart) / 4];
  std::memcpy(words, in, sizeof(words));
  for (int i = 0; i < kPageTokens / 16; ++i) {
    const uint32_t* row = words + (kPart == 8 ? 16 * (i / 4) : 0);
    for (int lane = 0; lane < 16; ++lane) {
      const uint32_t value =
          (row[lane % kLanes] >> PartShift(kPart, i, lane)) & ((1u << kPart) - 1);
      code_T[16 * i + lane] = static_cast<uint16_t>(code_T[16 * i + lane] | value << position);
    }
  }
}

// Writes all 128 codes of a row.
inline void PackField(const uint16_t* code_T, int bits, const PartOffsets& parts, std::byte* page) {
  if (bits & 8) PackPart<8>(code_T, 0, page + parts.at[0]);
  if (bits & 4) PackPart<4>(code_T, bits & 8, page + parts.at[1]);
  if (bits & 2) PackPart<2>(code_T, bits & 12, page + parts.at[2]);
  if (bits & 1) PackPart<1>(code_T, bits & 14, page + parts.at[3]);
}

// Reads all 128 codes of a row.
inline void UnpackField(const std::byte* page, int bits, const PartOffsets& parts,
                        uint16_t* code_T) {
  std::memset(code_T, 0, kPageTokens * sizeof(uint16_t));
  if (bits & 8) UnpackPart<8>(page + parts.at[0], 0, code_T);
  if (bits & 4) UnpackPart<4>(page + parts.at[1], bits & 8, code_T);
  if (bits & 2) UnpackPart<2>(page + parts.at[2], bits & 12, code_T);
  if (bits & 1) UnpackPart<1>(page + parts.at[3], bits & 14, code_T);
}

}  // namespace phasor
