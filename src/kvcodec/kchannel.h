// Integers per channel: the page layout of `int4_channel` and `int3_channel` and its kernels.
#pragma once

#include <cstddef>
#include <vector>

#include "kvcodec/packed_field.h"

namespace phasor {

inline constexpr int kMaxChannelHeadDim = 1024;

// Page: f16 scale [D], f16 low [D], padding to a multiple of 64, then the codes of each channel
// (packed_field.h): all 4-bit parts, then 2-bit, then 1-bit parts.
struct ChannelLayout {
  int head_dim;
  int bits;  // 3 or 4
  std::size_t page_bytes;
  std::vector<PartOffsets> parts_D;
};

struct ChannelKernels {
  void (*encode)(const ChannelLayout& layout, const float* x_TD, int n_tokens, std::byte* page);
  void (*decode)(const ChannelLayout& layout, const std::byte* page, int n_tokens, float* x_TD);
  void (*score)(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
                int n_tokens, float* score_GT);
  void (*accumulate)(const ChannelLayout& layout, const float* weight_GT, int g,
                     const std::byte* page, int n_tokens, float* out_GD);
};

extern const ChannelKernels kChannelKernelsAvx512;
// AVX2 has these; the rest is plain C++ there.
void ScoreChannelsAvx2(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
                       int n_tokens, float* score_GT);
void AccumulateChannelsAvx2(const ChannelLayout& layout, const float* weight_GT, int g,
                            const std::byte* page, int n_tokens, float* out_GD);
// As ChannelKernels has them, for both NEON levels; what is not here is plain code.
void ScoreChannelsNeon(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
                       int n_tokens, float* score_GT);
void AccumulateChannelsNeon(const ChannelLayout& layout, const float* weight_GT, int g,
                            const std::byte* page, int n_tokens, float* out_GD);

// The stored scale and low end of a channel.
struct ChannelGrid {
  uint16_t scale;  // f16
  uint16_t low;    // f16
};
// Grid around [low, high], rounded outwards so that no value is clipped.
ChannelGrid MakeChannelGrid(float low, float high, int bits);

}  // namespace phasor
