// Pages of frame codecs with AVX2: encode and decode, tokens in lanes.
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/aligned.h"
#include "kvcodec/frame_avx2-inl.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/polar_grid.h"  // kPolarInfinity

namespace phasor {
namespace {

constexpr int kRowFloats = kPageTokens;

// [D][128] floats: one page with tokens in lanes.
float* TileScratch(int head_dim) {
  static thread_local AlignedBuffer<float> tile;
  tile.Resize(static_cast<std::size_t>((head_dim + 7) / 8 * 8) * kRowFloats);
  return tile.data();
}

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// Turns every pair of frame_DT [D][128] by direction * 64 i omega_j in frame i, within +-65504.
void TurnFrames(const FrameLayout& layout, float direction, float* frame_DT) {
  const std::size_t n_pairs = layout.pairs.size();
  for (std::size_t j = 0; j < n_pairs; ++j) {
    float* x = frame_DT + layout.pairs[j].x * kRowFloats;
    float* y = frame_DT + layout.pairs[j].y * kRowFloats;
    for (std::size_t i = 0; i < kFrames; ++i) {
      const __m256 c = Set(layout.cos_IP[i * n_pairs + j]);
      const __m256 s = Set(direction * layout.sin_IP[i * n_pairs + j]);
      for (std::size_t t = kFrameTokens * i; t < kFrameTokens * (i + 1); t += 8) {
        const __m256 a = _mm256_load_ps(x + t), b = _mm256_load_ps(y + t);
        const __m256 u = _mm256_fnmadd_ps(b, s, _mm256_mul_ps(a, c));
        const __m256 v = _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c));
        _mm256_store_ps(x + t, Clamp(u, kPolarInfinity));
        _mm256_store_ps(y + t, Clamp(v, kPolarInfinity));
      }
    }
  }
}

// Rows in, columns out.
PHASOR_INLINE void Transpose8(__m256 r[8]) {
  __m256 t[8];
  PHASOR_UNROLL for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  PHASOR_UNROLL for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
  PHASOR_UNROLL for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// The first n of 8 lanes.
PHASOR_INLINE __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// x_TD -> tile[D][128], sanitized; missing tokens repeat the last one.
void RowsToTile(const float* x_TD, int head_dim, int n_tokens, float* tile) {
  for (int t0 = 0; t0 < kPageTokens; t0 += 8) {
    for (int d0 = 0; d0 < head_dim; d0 += 8) {
      const __m256i mask = FirstLanes(head_dim - d0);
      __m256 r[8];
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        const std::ptrdiff_t row = std::min(t0 + i, n_tokens - 1);
        const __m256 x = _mm256_maskload_ps(x_TD + row * head_dim + d0, mask);
        r[i] = _mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_ORD_Q), Clamp(x, kPolarInfinity));
      }
      Transpose8(r);
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        _mm256_store_ps(tile + (d0 + i) * kRowFloats + t0, r[i]);
      }
    }
  }
}

// tile[D][128] -> x_TD.
void TileToRows(const float* tile, int head_dim, int n_tokens, float* x_TD) {
  for (int t0 = 0; t0 < n_tokens; t0 += 8) {
    const int rows = std::min(n_tokens - t0, 8);
    for (int d0 = 0; d0 < head_dim; d0 += 8) {
      __m256 r[8];
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_load_ps(tile + (d0 + i) * kRowFloats + t0);
      }
      Transpose8(r);
      float* out = x_TD + static_cast<std::ptrdiff_t>(t0) * head_dim + d0;
      if (rows == 8 && d0 + 8 <= head_dim) {  // masked stores are slow where they are not needed
        PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
          _mm256_storeu_ps(out + static_cast<std::ptrdiff_t>(i) * head_dim, r[i]);
        }
        continue;
      }
      alignas(32) float column[8][8];
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) _mm256_store_ps(column[i], r[i]);
      for (int i = 0; i < rows; ++i) {
        std::memcpy(out + static_cast<std::ptrdiff_t>(i) * head_dim, column[i],
                    sizeof(float) * static_cast<std::size_t>(std::min(head_dim - d0, 8)));
      }
    }
  }
}

struct Fit {
  FrameGrid grid;
  float low, scale, inverse, top;
};

PHASOR_INLINE Fit MakeFit(FrameGrid grid, int bits) {
  const float scale = _cvtsh_ss(grid.scale);
  return {grid, _cvtsh_ss(grid.low), scale, scale > 0.0f ? 1.0f / scale : 0.0f,
          static_cast<float>((1 << bits) - 1)};
}

PHASOR_INLINE __m256 FitCode(const Fit& fit, __m256 x) {
  const __m256 level =
      _mm256_round_ps(_mm256_mul_ps(_mm256_sub_ps(x, Set(fit.low)), Set(fit.inverse)),
                      _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm256_max_ps(_mm256_min_ps(level, Set(fit.top)), _mm256_setzero_ps());
}

// The best grid of 128 values.
Fit FitSlot(const float* x_T, int bits, bool whole_range) {
  const __m256 first = _mm256_load_ps(x_T);
  if (bits == 0) {
    __m256 sum = first;
    for (int t = 8; t < kPageTokens; t += 8) sum = _mm256_add_ps(sum, _mm256_load_ps(x_T + t));
    const float mean = SumLanes(sum) * (1.0f / kPageTokens);
    return MakeFit({0, static_cast<uint16_t>(_cvtss_sh(mean, _MM_FROUND_TO_NEAREST_INT))}, 0);
  }
  __m256 lo = first, hi = first;
  for (int t = 8; t < kPageTokens; t += 8) {
    const __m256 x = _mm256_load_ps(x_T + t);
    lo = _mm256_min_ps(lo, x);
    hi = _mm256_max_ps(hi, x);
  }
  const float low = -MaxLanes(_mm256_sub_ps(_mm256_setzero_ps(), lo)), high = MaxLanes(hi);
  if (whole_range) return MakeFit(WholeFrameGrid(low, high, bits), bits);
  Fit best = {};
  float least = INFINITY;
  for (const float shrink : kFrameShrink[bits]) {
    if (shrink == 0.0f) break;
    const Fit fit = MakeFit(MakeFrameGrid(low, high, shrink, bits), bits);
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
      const __m256 x = _mm256_load_ps(x_T + 8 * i);
      const __m256 error =
          _mm256_sub_ps(_mm256_fmadd_ps(Set(fit.scale), FitCode(fit, x), Set(fit.low)), x);
      sum[i % 2] = _mm256_fmadd_ps(error, error, sum[i % 2]);
    }
    const float error = SumLanes(_mm256_add_ps(sum[0], sum[1]));
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
    __m256 x[8];
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) x[i] = _mm256_load_ps(x_T + t + 8 * i);
    for (uint32_t f = begin; f < end; ++f) {
      const float* residual_T = frame_DT + layout.feedback[f].channel * kRowFloats + t;
      const __m256 weight = Set(layout.feedback[f].weight);
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        x[i] = _mm256_fmadd_ps(weight, _mm256_load_ps(residual_T + 8 * i), x[i]);
      }
    }
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
      _mm256_store_ps(x_T + t + 8 * i, Clamp(x[i], kPolarInfinity));
    }
  }
}

// x_T becomes the residual of its rounding.
void ToResidual(const Fit& fit, float* x_T) {
  PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
    const __m256 x = _mm256_load_ps(x_T + 8 * i);
    _mm256_store_ps(
        x_T + 8 * i,
        _mm256_sub_ps(_mm256_fmadd_ps(Set(fit.scale), FitCode(fit, x), Set(fit.low)), x));
  }
}

// Bits [at, at + kPart) of the codes of all tiles, 8 / kPart tiles to a vector.
template <int kPart>
PHASOR_INLINE void StorePart(const __m256i word[kFrameTiles], int at, std::byte* out) {
  constexpr int kShare = 8 / kPart;
  const __m256i mask = _mm256_set1_epi8((1 << kPart) - 1);
  for (int m = 0; m < kPart; ++m) {
    __m256i all = _mm256_setzero_si256();
    PHASOR_UNROLL for (int i = 0; i < kShare; ++i) {
      const __m256i part =
          _mm256_and_si256(_mm256_srl_epi32(word[kShare * m + i], _mm_cvtsi32_si128(at)), mask);
      all = _mm256_or_si256(all, _mm256_sll_epi32(part, _mm_cvtsi32_si128(kPart * i)));
    }
    StoreBytes(out + 64 * m, all);
  }
}

// word[i]: codes of one half of tile i, byte k of a dword from slot k. quad: at that half.
void PackQuad(const __m256i word[kFrameTiles], int bits, std::byte* quad) {
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

void EncodeFrameAvx2(const FrameLayout& layout, const float* x_TD, int n_tokens, std::byte* page) {
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
    __m256i word[2][kFrameTiles];
    for (auto& half : word) {
      for (__m256i& w : half) w = _mm256_setzero_si256();
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
        const __m128i shift = _mm_cvtsi32_si128(8 * k);
        PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
          const __m256i code = _mm256_cvtps_epi32(FitCode(fit, _mm256_load_ps(x_T + 8 * i)));
          word[i % 2][i / 2] = _mm256_or_si256(word[i % 2][i / 2], _mm256_sll_epi32(code, shift));
        }
      }
      if (feeds_back) ToResidual(fit, x_T);
    }
    PackQuad(word[0], bits, quad);
    PackQuad(word[1], bits, quad + 32);
  }
}

namespace {

// The values of 8 tokens of one quad's slots, into rows of frame_DT.
template <int kBits, int kTile, int kHalf>
PHASOR_INLINE void UnpackHalf(const std::byte* quad, const float scale[4], const float low[4],
                              float* const row[4]) {
  const __m256i code = TileCodes<kBits, kTile, kHalf>(quad);
  PHASOR_UNROLL for (int k = 0; k < 4; ++k) {
    const __m256i one = _mm256_and_si256(_mm256_srli_epi32(code, 8 * k), _mm256_set1_epi32(255));
    _mm256_store_ps(row[k] + kTile * kFrameTile + 8 * kHalf,
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(one), Set(scale[k]), Set(low[k])));
  }
}

template <int kBits, int kTile = 0>
PHASOR_INLINE void UnpackTiles(const std::byte* quad, const float scale[4], const float low[4],
                               float* const row[4]) {
  if constexpr (kTile < kFrameTiles) {
    UnpackHalf<kBits, kTile, 0>(quad, scale, low, row);
    UnpackHalf<kBits, kTile, 1>(quad, scale, low, row);
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

void DecodeFrameAvx2(const FrameLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  float* frame = TileScratch(layout.head_dim);
  const std::byte* quad = page + layout.first_code;
  alignas(32) float unused[kPageTokens];
  for (int q = 0; q < layout.n_quads; ++q) {
    float scale[4], low[4];
    float* row[4];
    for (int k = 0; k < 4; ++k) {
      const int slot = 4 * q + k, channel = layout.channel_S[slot];
      uint16_t half[2];
      std::memcpy(&half[0], page + 2 * slot, 2);
      std::memcpy(&half[1], page + 2 * (4 * layout.n_quads + slot), 2);
      scale[k] = _cvtsh_ss(half[0]);
      low[k] = _cvtsh_ss(half[1]);
      row[k] = channel < 0 ? unused : frame + channel * kRowFloats;
    }
    UnpackQuad(quad, layout.bits_Q[q], scale, low, row);
    quad += 64 * layout.bits_Q[q];
  }
  TurnFrames(layout, 1.0f, frame);
  TileToRows(frame, layout.head_dim, n_tokens, x_TD);
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
