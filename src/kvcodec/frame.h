// frame4, frame3: keys as integers per channel in a frame that turns with RoPE; widths by query
// weight. int4_channel, int3_channel: the same without turning, of one width. This header is the
// page layout, shared by the kernels and the width allocation.
//
// A page of 128 tokens has two *frames* of 64. In frame i every RoPE pair is turned back by the
// angle its first token has gone since the start of the page, 64 i omega_j; so a pair that turns
// once in a thousand tokens nearly stands still in the codes, and only the query turns (two copies
// of it, prepared once per token, serve every page). Vectors of codes hold *tiles* of 16 tokens.
//
// Channels are sorted by width, widest first; a channel's place in that order is its *slot*, four
// neighbouring slots of one width b are a *quad*. D channels, Q = ceil(D / 4) quads. Page:
//   0     f16 scale [4 Q], f16 low [4 Q], in slot order; value = low + scale * code
//   ...   padding to a multiple of 64
//   ...   the quads, b * 64 bytes each: four vectors of 64 bytes for b & 4, two for b & 2, one for
//         b & 1. Byte 4 t + k of a vector belongs to token t of a tile and slot k of the quad.
//         4-bit part: vector m holds tiles 2 m (low nibble) and 2 m + 1 (high nibble).
//         2-bit part: vector m holds tiles 4 m .. 4 m + 3, tile i at bit 2 (i % 4).
//         1-bit part: tile i at bit i.
//         The 4-bit part is the low end of a code, then the 2-bit part, then the 1-bit part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "contracts/kv_codec.h"

namespace phasor {

inline constexpr int kFrameTokens = 64;                       // tokens that share a frame
inline constexpr int kFrames = kPageTokens / kFrameTokens;    // per page
inline constexpr int kFrameTile = 16;                         // tokens of a vector of codes
inline constexpr int kFrameTiles = kPageTokens / kFrameTile;  // per page
// The frame that a tile is in.
constexpr int FrameOf(int tile) { return tile * kFrameTile / kFrameTokens; }
inline constexpr int kMaxFrameBits = 7;  // widths 0 .. 7
inline constexpr int kMaxFrameHeadDim = 1024;
// All channels of this "width": the head's keys are rows of f16, for heads that 7 bits are not
// enough for.
inline constexpr uint8_t kFrameF16Width = 16;
// Bits per element of scales and lows.
inline constexpr double kFrameGridBits = 32.0 / kPageTokens;

struct FrameLayout {
  int head_dim = 0;
  // Grids hold every value of a channel (WholeFrameGrid); else ranges may shrink.
  bool whole_ranges = false;
  int n_quads = 0;
  int n_padded = 0;                // slots, padded to a multiple of 64
  std::vector<int16_t> channel_S;  // [4 n_quads]; -1 where D is not a multiple of 4
  std::vector<uint8_t> bits_Q;     // descending
  int quads_of_bits[kMaxFrameBits + 1] = {};
  uint32_t first_code = 0;  // offset of the first quad
  std::size_t page_bytes = 0;
  // The pairs that turn: their two channels, and cosine and sine of 64 i omega_j.
  struct Pair {
    int16_t x, y;
  };
  std::vector<Pair> pairs;
  std::vector<float> cos_IP, sin_IP;  // [kFrames][pairs]
  // The same per slot: turned[i][s] = cos_IS q[channel_S[s]] + sin_IS q[partner_S[s]];
  // [kFrames][n_padded], 0 in the padding.
  std::vector<float> cos_IS, sin_IS;
  std::vector<int16_t> partner_S;  // [4 n_quads]; a channel that does not turn is its own
  // Middles of the code ranges [n_padded]: as numbers in slot order, and as bytes in the order of
  // the 8-bit query (64 at a time, FrameDword).
  std::vector<float> middle_S;
  std::vector<uint8_t> middle_bytes_S;
  // Sum over the channels of the mean square of code - middle: what rounding errors of the 8-bit
  // query are multiplied by.
  float code_power = 0;
  // The same over the channels narrower than w bits, and middle_bytes_S of those of w bits and more
  // alone, [n_padded] each: for a second pass over the widest.
  float power_below[kMaxFrameBits + 2] = {};
  std::vector<uint8_t> middle_from[kMaxFrameBits + 1];
  // Slots are encoded from the last, narrowest to the first. What is rounded in slot s is the
  // channel plus weight * (stored - what was rounded) of slots behind it: feedback[feedback_S[s]]
  // up to feedback[feedback_S[s + 1]]. Both empty: channels are rounded by themselves.
  struct Feedback {
    int16_t channel;
    float weight;
  };
  std::vector<uint32_t> feedback_S;
  std::vector<Feedback> feedback;
};

// Queries are handled 64 slots (16 quads) at a time.
// Dword of a quad within 64 8-bit queries: what packing them from 16-bit numbers leaves.
constexpr int FrameDword(int quad) { return 4 * (quad % 4) + quad % 16 / 4; }
// Word of a slot within 64 16-bit queries: what packing them from 32-bit numbers leaves.
constexpr int FrameWord(int slot) {
  const int quad = slot / 4 % 16;
  return 32 * (quad / 8) + 8 * (quad % 4) + 4 * (quad / 4 % 2) + slot % 4;
}
// Where the 64 queries of a head and frame that `slot` belongs to begin.
constexpr std::ptrdiff_t FrameQueryRow(int slot, int g, int head, int frame) {
  return ((static_cast<std::ptrdiff_t>(slot / 64) * g + head) * kFrames + frame) * 64;
}

// width_D: 0 .. 7 per channel (checked). omega_P: radians per token of each rotated pair
// [n_rot / 2]; empty: nothing turns.
FrameLayout MakeFrameLayout(const KvCodecParams& params, std::span<const uint8_t> width_D);

// Keys in pages of the layout.
std::unique_ptr<KvCodec> MakeFrameCodec(FrameLayout layout);

// x_TD -> the frame, as [D][128]: sanitized, turned back, missing tokens as copies of the last.
void ToFrame(const FrameLayout& layout, const float* x_TD, int n_tokens, float* frame_DT);

// The stored values in the frame, [D][128].
void DecodeFrame(const FrameLayout& layout, const std::byte* page, float* frame_DT);

// What queries are turned into once per token.
struct FrameQuery {
  float* turned;        // [n_padded / 64][g][kFrames][64]: the query in every frame
  float* largest;       // [n_padded / 64][g][64]: bound of a slot's |turned| over all frames
  int16_t* normalized;  // as turned: turned / largest * 2047, each 64 in the order of FrameWord
};
std::size_t FrameQueryBytes(const FrameLayout& layout, int g);
FrameQuery ViewFrameQuery(const FrameLayout& layout, int g, std::byte* prepared);

}  // namespace phasor
