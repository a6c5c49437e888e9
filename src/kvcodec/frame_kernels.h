// The work of the frame codecs, once per CPU level.
//
// Scores: per page and query head the scales of the channels go into the query, which is then
// rounded to 8 bits; the rest is one unsigned times signed byte product per code (vpdpbusd). Codes
// count from the middle of their range, so that the rounding of the query meets small numbers.
// Where 8 bits are too few, four more follow in a second pass.
#pragma once

#include <cstddef>

#include "kvcodec/frame.h"
#include "simd/cpu.h"

namespace phasor {

struct FrameKernels {
  // As in KvCodec; every byte of the page is written.
  void (*encode)(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
  void (*decode)(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD);
  void (*score)(const FrameLayout& layout, const FrameQuery& query, int g,
                std::span<const PageToScore> pages);
  // q_GD: [g, D].
  void (*prepare)(const FrameLayout& layout, const float* q_GD, int g, const FrameQuery& query);
};

// Kernels of a level this CPU can run, and of the level in force.
const FrameKernels& FrameKernelsFor(CpuLevel level);
const FrameKernels& ActiveFrameKernels();

// Scale and low of one slot from its 128 values, least squared error over a few shrunken ranges.
struct FrameGrid {
  uint16_t scale, low;  // f16
};
// Squared error that an 8-bit query may add to that of the codes before a second pass follows, 1/12
// (docs/log.md); half of it, because a turning query is half its bound squared.
inline constexpr float kFrameQueryError = 0.5f / 12.0f;
// How far the range may shrink, widest first; ends with 0.
inline constexpr float kFrameShrink[kMaxFrameBits + 1][7] = {
    {1.0f},
    {0.9f, 0.75f, 0.65f, 0.57f, 0.5f},
    {1.0f, 0.86f, 0.77f, 0.69f, 0.61f, 0.54f},
    {1.0f, 0.92f, 0.85f, 0.78f, 0.71f},
    {1.0f, 0.94f, 0.89f, 0.84f},
    {1.0f, 0.95f, 0.91f},
    {1.0f, 0.96f},
    {1.0f},
};
// The grid of a range [low, high] shrunk around its middle.
FrameGrid MakeFrameGrid(float low, float high, float shrink, int bits);
// The grid of [low, high] rounded outwards to f16, so that no value is clipped. 3 bits or more:
// a step of fewer may be beyond f16.
FrameGrid WholeFrameGrid(float low, float high, int bits);

// The levels; only to be called through FrameKernelsFor.
extern const FrameKernels kFrameKernelsAvx2;
extern const FrameKernels kFrameKernelsAvx512;
extern const FrameKernels kFrameKernelsNeon;
extern const FrameKernels kFrameKernelsNeonDot;

}  // namespace phasor
