// Pages of small integer codes with 16-bit scales, and the inner loops over them.
//
// A stored number is scale * (code - offset). `block` neighbouring channels of one token share a
// scale (32 channels, or the whole head). Codes have 3, 4 or 8 bits (8-bit codes are signed and
// have offset 0).
//
// Both scoring and accumulation are sums of code * weight over one axis (*inner*: channels for
// keys, tokens for values) for every place on the other (*lanes*: tokens for keys, channels for
// values). So one tile serves both: 16 lanes x `group` inner places, and a 16-bit multiply-add of
// two neighbouring inner places per 32-bit lane (vpdpwssd, pmaddwd). Queries, and weights times
// scales, are rounded to 16 bits relative to their largest magnitude; sums are exact integers, so
// all CPU levels agree.
//
// Page: f16 scales [n_blocks][128 tokens], then tiles [n_inner / group][n_lanes / 16]. In a tile,
// j = 2 * lane + (inner & 1) and s = inner / 2:
//   4 bits, group 8:  16-bit words w[32]; code = (w[j] >> 4s) & 15                       64 bytes
//   8 bits, group 8:  bytes b[4][32]; code = b[s][j], signed                             128 bytes
//   3 bits, group 16: words w[32], bytes h[32]; code = ((w[j] >> 2s) & 3) | ((h[j] >> s) & 1) << 2
//                                                                                        96 bytes
#pragma once

#include <cstddef>
#include <cstdint>

#include "contracts/kv_codec.h"
#include "simd/cpu.h"

namespace phasor {

struct IntPageShape {
  IntPageShape(KvRole role, int head_dim, int bits, int block);

  KvRole role;
  int head_dim;
  int bits;
  int block;     // channels per scale; head_dim for one scale per row
  int offset;    // 2^(bits-1), or 0 for 8 bits
  int n_blocks;  // scales per token
  int group;     // inner places per tile
  int n_inner;   // padded to a multiple of group
  int n_lanes;   // padded to a multiple of 16
  int tile_bytes;
  std::size_t codes_at;  // byte offset of the first tile
  std::size_t page_bytes;
};

// codes[s][j] as above, as plain numbers 0 .. 2^bits-1 (8 bits: -128 .. 127).
inline constexpr int kMaxTileSteps = 8;
void PackTile(int bits, const int16_t (*codes)[32], std::byte* tile);
void UnpackTile(int bits, const std::byte* tile, int16_t (*codes)[32]);

struct IntScoreArgs {
  const IntPageShape* shape;
  const std::byte* page;
  const int16_t* q;       // [g, n_inner], zero where padded
  const float* q_step;    // [g]: query = q_step * q
  const int32_t* q_bias;  // [g, n_blocks]: offset * sum of q over the block
  int g;
  int n_tokens;
  float* score_GT;
};

struct IntAccumulateArgs {
  const IntPageShape* shape;
  const std::byte* page;
  const float* weight_GT;
  int g;
  int n_tokens;
  float* out_GD;
};

// Finds the scale with the least squared error for n numbers on the grid -half .. half-1, among 8
// step sizes of either sign: magnitude max|x| * (first + i * step) / half, rounded to f16.
struct ScaleSearch {
  int half;  // 8 for 4 bits, 4 for 3 bits
  float first;
  float step;
};

struct IntKernels {
  // Keys. Writes whole vectors of 16 scores, inside each row of kPageTokens.
  void (*score)(const IntScoreArgs& args);
  // Values.
  void (*accumulate)(const IntAccumulateArgs& args);
  // x: n finite numbers, zero padded to a multiple of 16. Returns the scale, a number f16 can hold.
  float (*search_scale)(const ScaleSearch& search, const float* x, int n);
};

const IntKernels& GetIntKernels(CpuLevel level);
// The sets of one level; null where the build has none (other processors).
const IntKernels* IntKernelsAvx2();
const IntKernels* IntKernelsAvx512();

// Weights below this are treated as zero, so that 1 / largest weight stays finite.
inline constexpr float kSmallestWeight = 1e-30f;
inline constexpr int kWeightLevels = 32767;

}  // namespace phasor
