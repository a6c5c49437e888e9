// Scores and sums of the per-channel integer codecs with NEON, for both levels: lanes are tokens,
// products are float. Pages are written and decoded by plain code.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0
#include <algorithm>
#include <cstring>

#include "kvcodec/kchannel.h"
#include "simd/neon-inl.h"

namespace phasor {
namespace {

constexpr int kMaxHeads = 4;

struct ChannelGrids {
  float scale[kMaxChannelHeadDim], low[kMaxChannelHeadDim];
};

void LoadGrids(const ChannelLayout& layout, const std::byte* page, ChannelGrids* out) {
  const int D = layout.head_dim;
  for (int d = 0; d < D; d += 4) {
    uint16_t scale[4] = {}, low[4] = {};
    const std::size_t size_bytes = sizeof(uint16_t) * static_cast<std::size_t>(std::min(D - d, 4));
    std::memcpy(scale, page + 2 * d, size_bytes);
    std::memcpy(low, page + 2 * (D + d), size_bytes);
    vst1q_f32(out->scale + d, LoadF16x4(scale));
    vst1q_f32(out->low + d, LoadF16x4(low));
  }
}

// Bits of words from `at` on, kPart of them.
template <int kPart>
PHASOR_INLINE uint32x4_t Bits(const std::byte* words, int at) {
  const uint32x4_t w = vreinterpretq_u32_u8(LoadBytes(words));
  return vandq_u32(vshlq_u32(w, vdupq_n_s32(-at)), vdupq_n_u32((1u << kPart) - 1));
}

// Codes of tokens 16 i + 4 v .. + 3 of one channel as numbers (packed_field.h).
template <int kBits>
PHASOR_INLINE float32x4_t Levels(const std::byte* page, const PartOffsets& parts, int i, int v) {
  if constexpr (kBits == 4) return vcvtq_f32_u32(Bits<4>(page + parts.at[1] + 16 * v, 4 * i));
  const uint32x4_t low = Bits<2>(page + parts.at[2] + 16 * (v % 2), 4 * i + 2 * (v / 2));
  const uint32x4_t high = Bits<1>(page + parts.at[3], 4 * i + v);
  return vcvtq_f32_u32(vorrq_u32(low, vshlq_n_u32(high, 2)));
}

// Scores of kHeads heads; q_GD is the first of them. Whole tiles of 16 tokens.
template <int kBits, int kHeads>
void ScoreHeads(const ChannelLayout& layout, const ChannelGrids& grid, const float* q_GD,
                const std::byte* page, int n_tokens, float* score_GT) {
  const int D = layout.head_dim;
  float folded[kMaxChannelHeadDim][kHeads], base[kHeads] = {};
  for (int d = 0; d < D; ++d) {
    for (int h = 0; h < kHeads; ++h) {
      folded[d][h] = q_GD[h * D + d] * grid.scale[d];
      base[h] += q_GD[h * D + d] * grid.low[d];
    }
  }
  for (int i = 0; 16 * i < n_tokens; ++i) {
    float32x4_t acc[kHeads][4];
    PHASOR_UNROLL for (int j = 0; j < 4 * kHeads; ++j) acc[j / 4][j % 4] = vdupq_n_f32(base[j / 4]);
    for (int d = 0; d < D; ++d) {
      PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
        const float32x4_t x = Levels<kBits>(page, layout.parts_D[d], i, v);
        PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
          acc[h][v] = vfmaq_n_f32(acc[h][v], x, folded[d][h]);
        }
      }
    }
    PHASOR_UNROLL for (int j = 0; j < 4 * kHeads; ++j) {
      vst1q_f32(score_GT + j / 4 * kPageTokens + 16 * i + j % 4 * 4, acc[j / 4][j % 4]);
    }
  }
}

// Sums of kHeads heads; weight_GT and out_GD are those of the first.
template <int kBits, int kHeads>
void AccumulateHeads(const ChannelLayout& layout, const ChannelGrids& grid, const float* weight_GT,
                     const std::byte* page, int n_tokens, float* out_GD) {
  float weight[kHeads][kPageTokens] = {}, total[kHeads] = {};
  for (int h = 0; h < kHeads; ++h) {
    std::copy_n(weight_GT + h * kPageTokens, n_tokens, weight[h]);
    for (int t = 0; t < n_tokens; ++t) total[h] += weight[h][t];
  }
  for (int d = 0; d < layout.head_dim; ++d) {
    float32x4_t acc[kHeads][4];
    PHASOR_UNROLL for (int j = 0; j < 4 * kHeads; ++j) acc[j / 4][j % 4] = vdupq_n_f32(0.0f);
    for (int i = 0; 16 * i < n_tokens; ++i) {
      PHASOR_UNROLL for (int v = 0; v < 4; ++v) {
        const float32x4_t x = Levels<kBits>(page, layout.parts_D[d], i, v);
        PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
          acc[h][v] = vfmaq_f32(acc[h][v], x, vld1q_f32(weight[h] + 16 * i + 4 * v));
        }
      }
    }
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
      const float32x4_t sum = vaddq_f32(vaddq_f32(acc[h][0], acc[h][1]),  //
                                        vaddq_f32(acc[h][2], acc[h][3]));
      out_GD[h * layout.head_dim + d] += total[h] * grid.low[d] + grid.scale[d] * vaddvq_f32(sum);
    }
  }
}

template <int kBits>
void ScoreBits(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
               int n_tokens, float* score_GT) {
  ChannelGrids grid;
  LoadGrids(layout, page, &grid);
  for (; g > 0; g -= kMaxHeads) {
    if (g >= 4) ScoreHeads<kBits, 4>(layout, grid, q_GD, page, n_tokens, score_GT);
    if (g == 3) ScoreHeads<kBits, 3>(layout, grid, q_GD, page, n_tokens, score_GT);
    if (g == 2) ScoreHeads<kBits, 2>(layout, grid, q_GD, page, n_tokens, score_GT);
    if (g == 1) ScoreHeads<kBits, 1>(layout, grid, q_GD, page, n_tokens, score_GT);
    q_GD += kMaxHeads * layout.head_dim;
    score_GT += kMaxHeads * kPageTokens;
  }
}

template <int kBits>
void AccumulateBits(const ChannelLayout& layout, const float* weight_GT, int g,
                    const std::byte* page, int n_tokens, float* out_GD) {
  ChannelGrids grid;
  LoadGrids(layout, page, &grid);
  for (; g > 0; g -= kMaxHeads) {
    if (g >= 4) AccumulateHeads<kBits, 4>(layout, grid, weight_GT, page, n_tokens, out_GD);
    if (g == 3) AccumulateHeads<kBits, 3>(layout, grid, weight_GT, page, n_tokens, out_GD);
    if (g == 2) AccumulateHeads<kBits, 2>(layout, grid, weight_GT, page, n_tokens, out_GD);
    if (g == 1) AccumulateHeads<kBits, 1>(layout, grid, weight_GT, page, n_tokens, out_GD);
    weight_GT += kMaxHeads * kPageTokens;
    out_GD += kMaxHeads * layout.head_dim;
  }
}

}  // namespace

void ScoreChannelsNeon(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
                       int n_tokens, float* score_GT) {
  (layout.bits == 4 ? ScoreBits<4> : ScoreBits<3>)(layout, q_GD, g, page, n_tokens, score_GT);
}

void AccumulateChannelsNeon(const ChannelLayout& layout, const float* weight_GT, int g,
                            const std::byte* page, int n_tokens, float* out_GD) {
  (layout.bits == 4 ? AccumulateBits<4> : AccumulateBits<3>)(layout, weight_GT, g, page, n_tokens,
                                                             out_GD);
}

}  // namespace phasor
#endif  // __aarch64__
