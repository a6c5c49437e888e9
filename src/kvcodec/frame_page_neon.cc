// Pages of frame codecs with NEON: encode and decode, tokens in lanes.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/aligned.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/frame_neon-inl.h"
#include "kvcodec/polar_grid.h"  // kPolarInfinity
#include "tensor/half.h"

namespace phasor {
namespace {

constexpr int kRowFloats = kPageTokens;

// [D][128] floats: one page with tokens in lanes.
float* TileScratch(int head_dim) {
  static thread_local AlignedBuffer<float> tile;
  tile.Resize(static_cast<std::size_t>((head_dim + 3) / 4 * 4) * kRowFloats);
  return tile.data();
}

// Turns every pair of frame_DT [D][128] by direction * 64 i omega_j in frame i, within +-65504.
void TurnFrames(const FrameLayout& layout, float direction, float* frame_DT) {
  const std::size_t n_pairs = layout.pairs.size();
  for (std::size_t j = 0; j < n_pairs; ++j) {
    float* x = frame_DT + layout.pairs[j].x * kRowFloats;
    float* y = frame_DT + layout.pairs[j].y * kRowFloats;
    for (std::size_t i = 0; i < kFrames; ++i) {
      const float32x4_t c = vdupq_n_f32(layout.cos_IP[i * n_pairs + j]);
      const float32x4_t s = vdupq_n_f32(direction * layout.sin_IP[i * n_pairs + j]);
      for (std::size_t t = kFrameTokens * i; t < kFrameTokens * (i + 1); t += 4) {
        const float32x4_t a = vld1q_f32(x + t), b = vld1q_f32(y + t);
        vst1q_f32(x + t, Clamp(vfmsq_f32(vmulq_f32(a, c), b, s), kPolarInfinity));
        vst1q_f32(y + t, Clamp(vfmaq_f32(vmulq_f32(b, c), a, s), kPolarInfinity));
      }
    }
  }
}

// Rows in, columns out.
PHASOR_INLINE void Transpose4(float32x4_t r[4]) {
  const float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
  const float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
  r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
  r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
  r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
  r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

// Up to 4 floats, the rest 0.
PHASOR_INLINE float32x4_t LoadSome(const float* x, int n) {
  if (n >= 4) return vld1q_f32(x);
  float four[4] = {};
  for (int i = 0; i < n; ++i) four[i] = x[i];
  return vld1q_f32(four);
}

// x_TD -> tile[D][128], sanitized; missing tokens repeat the last one.
void RowsToTile(const float* x_TD, int head_dim, int n_tokens, float* tile) {
  for (int t0 = 0; t0 < kPageTokens; t0 += 4) {
    for (int d0 = 0; d0 < head_dim; d0 += 4) {
      float32x4_t r[4];
      PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
        const std::ptrdiff_t row = std::min(t0 + i, n_tokens - 1);
        const float32x4_t x = LoadSome(x_TD + row * head_dim + d0, head_dim - d0);
        const uint32x4_t number = vceqq_f32(x, x);
        r[i] = vbslq_f32(number, Clamp(x, kPolarInfinity), vdupq_n_f32(0.0f));
      }
      Transpose4(r);
      PHASOR_UNROLL for (int i = 0; i < 4; ++i) vst1q_f32(tile + (d0 + i) * kRowFloats + t0, r[i]);
    }
  }
}

// tile[D][128] -> x_TD.
void TileToRows(const float* tile, int head_dim, int n_tokens, float* x_TD) {
  for (int t0 = 0; t0 < n_tokens; t0 += 4) {
    const int rows = std::min(n_tokens - t0, 4);
    for (int d0 = 0; d0 < head_dim; d0 += 4) {
      float32x4_t r[4];
      PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
        r[i] = vld1q_f32(tile + (d0 + i) * kRowFloats + t0);
      }
      Transpose4(r);
      float* out = x_TD + static_cast<std::ptrdiff_t>(t0) * head_dim + d0;
      if (rows == 4 && d0 + 4 <= head_dim) {
        PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
          vst1q_f32(out + static_cast<std::ptrdiff_t>(i) * head_dim, r[i]);
        }
        continue;
      }
      float column[4][4];
      PHASOR_UNROLL for (int i = 0; i < 4; ++i) vst1q_f32(column[i], r[i]);
      for (int i = 0; i < rows; ++i) {
        std::memcpy(out + static_cast<std::ptrdiff_t>(i) * head_dim, column[i],
                    sizeof(float) * static_cast<std::size_t>(std::min(head_dim - d0, 4)));
      }
    }
  }
}

struct Fit {
  FrameGrid grid;
  float low, scale, inverse, top;
};

Fit MakeFit(FrameGrid grid, int bits) {
  const float scale = F16ToF32(grid.scale);
  return {grid, F16ToF32(grid.low), scale, scale > 0.0f ? 1.0f / scale : 0.0f,
          static_cast<float>((1 << bits) - 1)};
}

PHASOR_INLINE float32x4_t FitCode(const Fit& fit, float32x4_t x) {
  const float32x4_t level =
      vrndnq_f32(vmulq_n_f32(vsubq_f32(x, vdupq_n_f32(fit.low)), fit.inverse));
  return vmaxq_f32(vminq_f32(level, vdupq_n_f32(fit.top)), vdupq_n_f32(0.0f));
}

// The best grid of 128 values.
Fit FitSlot(const float* x_T, int bits, bool whole_range) {
  const float32x4_t first = vld1q_f32(x_T);
  if (bits == 0) {
    float32x4_t sum = first;
    for (int t = 4; t < kPageTokens; t += 4) sum = vaddq_f32(sum, vld1q_f32(x_T + t));
    return MakeFit({0, F32ToF16(vaddvq_f32(sum) * (1.0f / kPageTokens))}, 0);
  }
  float32x4_t lo = first, hi = first;
  for (int t = 4; t < kPageTokens; t += 4) {
    const float32x4_t x = vld1q_f32(x_T + t);
    lo = vminq_f32(lo, x);
    hi = vmaxq_f32(hi, x);
  }
  const float low = vminvq_f32(lo), high = vmaxvq_f32(hi);
  if (whole_range) return MakeFit(WholeFrameGrid(low, high, bits), bits);
  Fit best = {};
  float least = INFINITY;
  for (const float shrink : kFrameShrink[bits]) {
    if (shrink == 0.0f) break;
    const Fit fit = MakeFit(MakeFrameGrid(low, high, shrink, bits), bits);
    float32x4_t sum[4];
    for (float32x4_t& s : sum) s = vdupq_n_f32(0.0f);
    PHASOR_UNROLL for (int i = 0; i < 32; ++i) {
      const float32x4_t x = vld1q_f32(x_T + 4 * i);
      const float32x4_t error =
          vsubq_f32(vfmaq_n_f32(vdupq_n_f32(fit.low), FitCode(fit, x), fit.scale), x);
      sum[i % 4] = vfmaq_f32(sum[i % 4], error, error);
    }
    const float error = vaddvq_f32(vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3])));
    if (error < least || best.grid.scale == 0) {
      least = error;
      best = fit;
    }
  }
  return best;
}

// x_T, the channel of slot `slot`, becomes what is to be rounded. frame_DT: residuals of slots
// behind it.
void AddFeedback(const FrameLayout& layout, int slot, const float* frame_DT, float* x_T) {
  const uint32_t begin = layout.feedback_S[slot], end = layout.feedback_S[slot + 1];
  if (begin == end) return;
  for (int t = 0; t < kPageTokens; t += 64) {
    float32x4_t x[16];
    PHASOR_UNROLL for (int i = 0; i < 16; ++i) x[i] = vld1q_f32(x_T + t + 4 * i);
    for (uint32_t f = begin; f < end; ++f) {
      const float* residual_T = frame_DT + layout.feedback[f].channel * kRowFloats + t;
      const float weight = layout.feedback[f].weight;
      PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
        x[i] = vfmaq_n_f32(x[i], vld1q_f32(residual_T + 4 * i), weight);
      }
    }
    PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
      vst1q_f32(x_T + t + 4 * i, Clamp(x[i], kPolarInfinity));
    }
  }
}

// x_T becomes the residual of its rounding.
void ToResidual(const Fit& fit, float* x_T) {
  for (int t = 0; t < kPageTokens; t += 4) {
    const float32x4_t x = vld1q_f32(x_T + t);
    vst1q_f32(x_T + t, vsubq_f32(vfmaq_n_f32(vdupq_n_f32(fit.low), FitCode(fit, x), fit.scale), x));
  }
}

// Bits [at, at + kPart) of the codes of all tiles, 8 / kPart tiles to a vector.
template <int kPart>
PHASOR_INLINE void StorePart(const uint32x4_t word[kFrameTiles], int at, std::byte* out) {
  constexpr int kShare = 8 / kPart;
  const uint8x16_t mask = vdupq_n_u8((1 << kPart) - 1);
  for (int m = 0; m < kPart; ++m) {
    uint8x16_t all = vdupq_n_u8(0);
    PHASOR_UNROLL for (int i = 0; i < kShare; ++i) {
      const uint8x16_t code = vreinterpretq_u8_u32(word[kShare * m + i]);
      const uint8x16_t part = vandq_u8(vshlq_u8(code, vdupq_n_s8(static_cast<int8_t>(-at))), mask);
      all = vorrq_u8(all, vshlq_u8(part, vdupq_n_s8(static_cast<int8_t>(kPart * i))));
    }
    vst1q_u8(reinterpret_cast<uint8_t*>(out) + 64 * m, all);
  }
}

// word[i]: codes of 4 tokens of tile i, byte k of a dword from slot k. quad: at those tokens.
void PackQuad(const uint32x4_t word[kFrameTiles], int bits, std::byte* quad) {
  int at = 0;
  if (bits & 4) {
    StorePart<4>(word, 0, quad);
    quad += 256;
    at = 4;
  }
  if (bits & 2) {
    StorePart<2>(word, at, quad);
    quad += 128;
    at += 2;
  }
  if (bits & 1) StorePart<1>(word, at, quad);
}

}  // namespace

void EncodeFrameNeon(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page) {
  float* frame = TileScratch(layout.head_dim);
  RowsToTile(x_TD, layout.head_dim, n_tokens, frame);
  TurnFrames(layout, -1.0f, frame);
  if (n_tokens < kPageTokens) {  // missing tokens are copies of the last one, in its frame
    for (int d = 0; d < layout.head_dim; ++d) {
      float* row = frame + d * kRowFloats;
      std::fill(row + n_tokens, row + kPageTokens, row[n_tokens - 1]);
    }
  }
  std::memset(page, 0, layout.first_code);
  const bool feeds_back = !layout.feedback.empty();
  std::byte* quad = page + layout.page_bytes;
  for (int q = layout.n_quads - 1; q >= 0; --q) {
    const int bits = layout.bits_Q[q];
    quad -= 64 * bits;
    uint32x4_t word[4][kFrameTiles];
    for (auto& quarter : word) {
      for (uint32x4_t& w : quarter) w = vdupq_n_u32(0);
    }
    for (int k = 3; k >= 0; --k) {
      const int slot = 4 * q + k, channel = layout.channel_S[slot];
      if (channel < 0) continue;
      float* x_T = frame + channel * kRowFloats;
      if (feeds_back) AddFeedback(layout, slot, frame, x_T);
      const Fit fit = FitSlot(x_T, bits, layout.whole_ranges);
      std::memcpy(page + 2 * slot, &fit.grid.scale, 2);
      std::memcpy(page + 2 * (4 * layout.n_quads + slot), &fit.grid.low, 2);
      if (bits > 0) {
        const int32x4_t shift = vdupq_n_s32(8 * k);
        for (int i = 0; i < 32; ++i) {
          const uint32x4_t code = vcvtnq_u32_f32(FitCode(fit, vld1q_f32(x_T + 4 * i)));
          word[i % 4][i / 4] = vorrq_u32(word[i % 4][i / 4], vshlq_u32(code, shift));
        }
      }
      if (feeds_back) ToResidual(fit, x_T);
    }
    for (int v = 0; v < 4; ++v) PackQuad(word[v], bits, quad + 16 * v);
  }
}

namespace {

// The values of one quad's slots, into rows of frame_DT.
template <int kBits, int kTile = 0>
PHASOR_INLINE void UnpackTiles(const std::byte* quad, const float scale[4], const float low[4],
                               float* const row[4]) {
  if constexpr (kTile < kFrameTiles) {
    for (int v = 0; v < 4; ++v) {
      const uint32x4_t code = vreinterpretq_u32_u8(TileCodes<kBits, kTile>(quad + 16 * v));
      PHASOR_UNROLL for (int k = 0; k < 4; ++k) {
        const uint32x4_t one = vandq_u32(vshlq_u32(code, vdupq_n_s32(-8 * k)), vdupq_n_u32(255));
        vst1q_f32(row[k] + kTile * kFrameTile + 4 * v,
                  vfmaq_n_f32(vdupq_n_f32(low[k]), vcvtq_f32_u32(one), scale[k]));
      }
    }
    UnpackTiles<kBits, kTile + 1>(quad, scale, low, row);
  }
}

void UnpackQuad(const std::byte* quad, int bits, const float scale[4], const float low[4],
                float* const row[4]) {
  switch (bits) {
    case 0:
      return UnpackTiles<0>(quad, scale, low, row);
    case 1:
      return UnpackTiles<1>(quad, scale, low, row);
    case 2:
      return UnpackTiles<2>(quad, scale, low, row);
    case 3:
      return UnpackTiles<3>(quad, scale, low, row);
    case 4:
      return UnpackTiles<4>(quad, scale, low, row);
    case 5:
      return UnpackTiles<5>(quad, scale, low, row);
    case 6:
      return UnpackTiles<6>(quad, scale, low, row);
    default:
      return UnpackTiles<7>(quad, scale, low, row);
  }
}

}  // namespace

void DecodeFrameNeon(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  float* frame = TileScratch(layout.head_dim);
  const std::byte* quad = page + layout.first_code;
  float unused[kPageTokens];
  for (int q = 0; q < layout.n_quads; ++q) {
    float scale[4], low[4];
    float* row[4];
    vst1q_f32(scale, LoadF16x4(page + 8 * q));
    vst1q_f32(low, LoadF16x4(page + 8 * layout.n_quads + 8 * q));
    for (int k = 0; k < 4; ++k) {
      const int channel = layout.channel_S[4 * q + k];
      row[k] = channel < 0 ? unused : frame + channel * kRowFloats;
    }
    UnpackQuad(quad, layout.bits_Q[q], scale, low, row);
    quad += 64 * layout.bits_Q[q];
  }
  TurnFrames(layout, 1.0f, frame);
  TileToRows(frame, layout.head_dim, n_tokens, x_TD);
}

}  // namespace phasor
#endif  // __aarch64__
