// Codes of one row (a pair of dimensions, or a channel) of 128 tokens, packed without waste.
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

// The word of token t within a part, and the shift of its bits.
inline int PartWord(int part_bits, int t) {
  int i = t / 16, lane = t % 16;
  if (part_bits == 8) return 16 * (i / 4) + lane;
  return part_bits == 4 ? lane : part_bits == 2 ? lane % 8 : lane % 4;
}
inline int PartShift(int part_bits, int t) {
  int i = t / 16, lane = t % 16;
  if (part_bits == 8) return 8 * (i % 4);
  return part_bits == 4 ? 4 * i : part_bits == 2 ? 4 * i + 2 * (lane / 8) : 4 * i + lane / 4;
}

// Writes all 128 codes of a row.
inline void PackField(const uint16_t* code_T, int bits, const PartOffsets& parts, std::byte* page) {
  int position = 0;
  for (int p = 0; p < 4; ++p) {
    const int part = kFieldParts[p];
    if ((bits & part) == 0) continue;
    uint32_t words[32] = {};
    for (int t = 0; t < kPageTokens; ++t) {
      uint32_t value = (static_cast<uint32_t>(code_T[t]) >> position) & ((1u << part) - 1);
      words[PartWord(part, t)] |= value << PartShift(part, t);
    }
    std::memcpy(page + parts.at[p], words, PartBytes(part));
    position += part;
  }
}

// Reads all 128 codes of a row.
inline void UnpackField(const std::byte* page, int bits, const PartOffsets& parts,
                        uint16_t* code_T) {
  for (int t = 0; t < kPageTokens; ++t) code_T[t] = 0;
  int position = 0;
  for (int p = 0; p < 4; ++p) {
    const int part = kFieldParts[p];
    if ((bits & part) == 0) continue;
    uint32_t words[32];
    std::memcpy(words, page + parts.at[p], PartBytes(part));
    for (int t = 0; t < kPageTokens; ++t) {
      uint32_t value = (words[PartWord(part, t)] >> PartShift(part, t)) & ((1u << part) - 1);
      code_T[t] = static_cast<uint16_t>(code_T[t] | (value << position));
    }
    position += part;
  }
}

}  // namespace phasor
