// Pages of small integer codes with 16-bit scales, and the inner loops over them.
//
// A stored number is scale * level. `block` neighbouring channels of one token share a scale (32
// channels, or the whole head). 8-bit codes are signed and are their own level. Codes of 3 and 4
// bits choose a level from a short list (IntLevels), so grids need not be uniform; a list may come
// in several *books*, and the low bits of the scale's f16 pattern say which one a row uses.
//
// Both scoring and accumulation are sums of level * weight over one axis (*inner*: channels for
// keys, tokens for values) for every place on the other (*lanes*: tokens for keys, channels for
// values). So one tile serves both: 16 lanes x `group` inner places, with the bytes of four
// neighbouring inner places side by side for byte dot products (vpdpbusd, pmaddubsw).
//
// Queries are rounded to 15 bits and a sign relative to their largest magnitude. Weights times
// scales are rounded relative to the largest of the page: to 15 bits for 8-bit codes; to 8 bits for
// 3- and 4-bit codes, up or down by a threshold that depends on the place of the token (a Weyl
// sequence of the golden ratio), so that a tail of small weights keeps its sum. The largest weight
// of a page is exact; the rounding of the others adds at most 5 % to the squared error of 4-bit
// codes (docs/log.md). All sums are exact integers and all rounding is the same everywhere: CPU
// levels agree.
//
// Page: f16 scales [n_blocks][128 tokens], then tiles [n_inner / group][n_lanes / 16]. Byte 4 l + b
// of 64 bytes belongs to lane l and to inner places 4 s + b:
//   4 bits, group 8:  code = (w[4l + b] >> 4s) & 15, s < 2                               64 bytes
//   8 bits, group 8:  code = w[64 s + 4l + b], signed, s < 2                            128 bytes
//   3 bits, group 16: w[64], h[32]; code = ((w[4l + b] >> 2s) & 3) | bit << 2, s < 4     96 bytes
//                     bit = (h[4 (l & 7) + b] >> (s + 4 (l >> 3))) & 1
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "contracts/kv_codec.h"
#include "simd/cpu.h"

namespace phasor {

// Largest magnitude of a level, so that products of two bytes fit 16-bit sums.
inline constexpr int kMaxLevel = 63;

struct NearestTables;  // nearest_level.h

struct IntLevels {
  int bits;          // 3, 4 or 8
  int book_bits;     // 0, or log2 of the number of books: bits + book_bits <= 5
  int8_t level[32];  // [book << bits | code], each book ascending; unused for 8 bits
};

struct IntPageShape {
  IntPageShape(KvRole role, int head_dim, const IntLevels* levels, int block);

  KvRole role;
  int head_dim;
  int bits;
  const IntLevels* levels;
  int block;     // channels per scale; head_dim for one scale per row
  int n_blocks;  // scales per token
  int group;     // inner places per tile
  int n_inner;   // padded to a multiple of group
  int n_lanes;   // padded to a multiple of 16
  int tile_bytes;
  std::size_t codes_at;  // byte offset of the first tile
  std::size_t page_bytes;
};

// word[s][l]: the codes of inner places 4 s .. 4 s + 3 of lane l, one per byte, lowest first.
inline constexpr int kMaxTileSteps = 4;
void PackTile(int bits, const uint32_t (*word)[16], std::byte* tile);
void UnpackTile(int bits, const std::byte* tile, uint32_t (*word)[16]);

struct IntScoreArgs {
  const IntPageShape* shape;
  const std::byte* page;
  const int16_t* q;       // [g, n_inner], zero where padded, |q| <= kQueryLevels
  const int8_t* q_bytes;  // [g, n_inner / 4, 2, 4]: q = 128 * [0] + [1]
  const float* q_step;    // [g]: query = q_step * q
  const int32_t* q_sum;   // [g, n_blocks]: sum of q over the block
  int g;
  int n_tokens;
  float* score_GT;
  Upcoming next = {};
};

struct IntAccumulateArgs {
  const IntPageShape* shape;
  const std::byte* page;
  const float* weight_GT;
  int g;
  int n_tokens;
  float* out_GD;
  Upcoming next = {};
};

// Squared errors of 16 rows on the grids of all books, in levels.
// nearest[b][i]: the level of book b nearest to i (i & 127 as a signed number of 7 bits).
inline constexpr int kSearchSteps = 8;
inline constexpr int kMaxBooks = 4;
struct IntSearchArgs {
  const float* x_DT;  // [n][16], n padded with zeros to a multiple of 4; finite
  int n;
  int n_books;  // 2 or 4
  const int8_t (*nearest)[128];
  const NearestTables* quarters;  // the same in short
  const float (*inverse)[16];     // [kSearchSteps]: levels per unit; |x * inverse| <= 127
  // error[i][2 * b + sign]: of book b (mirrored where sign is 1) at inverse[i]; x * inverse is
  // rounded to an integer first.
  int32_t (*error)[2 * kMaxBooks][16];
};

struct IntKernels {
  // Keys. Writes whole vectors of 16 scores, inside each row of kPageTokens.
  void (*score)(const IntScoreArgs& args);
  // Values.
  void (*accumulate)(const IntAccumulateArgs& args);
  void (*decode)(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD);
  void (*search)(const IntSearchArgs& args);
};

const IntKernels& GetIntKernels(CpuLevel level);
// The sets of one level; null where the build has none (other processors).
const IntKernels* IntKernelsAvx2();
const IntKernels* IntKernelsAvx512Vnni();
const IntKernels* IntKernelsAvx512();
const IntKernels* IntKernelsNeon();
const IntKernels* IntKernelsNeonDot();

// Largest weights below this are treated as zero, so that their inverse stays finite.
inline constexpr float kSmallestWeight = 1e-30f;
inline constexpr int kQueryLevels = 127 * 128;
inline constexpr int kWeightLevels = 32767;    // for 8-bit codes
inline constexpr int kByteWeightLevels = 255;  // for 3- and 4-bit codes
// Rounding weights to 8 bits adds 128 / 6 * (largest / 255)^2 at most, on average over where they
// fall, to the sum of their squares times the squared error of the codes, 0.0062 for 4 bits and
// 0.025 for 3: at most 5.3 % and 1.3 % of it, and that only where one token carries the page.

// Thresholds in [0, 1) of kPageTokens tokens for one head of one page.
inline constexpr int kThresholdPhases = 16, kThresholdStep = 16;  // steps are whole vectors
struct ThresholdTable {
  alignas(64) std::array<float, kPageTokens + (kThresholdPhases - 1) * kThresholdStep> at;
};
extern const ThresholdTable kThresholds;
// Pages and heads start at different places, so that what recurs every 128 tokens averages out.
inline const float* Thresholds(const uint16_t* scales, int head) {
  const uint32_t mixed = (scales[0] + 7u * scales[1]) * 0x9e3779b1u;
  const uint32_t phase = ((mixed >> 28) + 3u * static_cast<uint32_t>(head)) % kThresholdPhases;
  return kThresholds.at.data() + kThresholdStep * phase;
}

}  // namespace phasor
