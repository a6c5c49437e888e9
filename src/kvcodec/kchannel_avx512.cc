// Kernels of the per-channel integer codecs for AVX-512: lanes are tokens.
#if defined(__x86_64__)

#include "kvcodec/kchannel.h"
#include "kvcodec/page_avx512-inl.h"
#include "simd/avx512.h"
#include "simd/target.h"

namespace phasor {
namespace {

constexpr int kMaxChunkHeads = 4;
constexpr int kChunkChannels = 64;  // bounds the scratch of folded queries

struct alignas(64) GridScratch {
  float scale[kMaxChannelHeadDim], low[kMaxChannelHeadDim];
};

RunCodes CodesOf(const ChannelLayout& layout, int d, const std::byte* page) {
  RunCodes codes;
  for (int p = 0; p < 4; ++p) codes.part[p] = page + layout.parts_D[d].at[p];
  return codes;
}

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

void LoadGrids(const ChannelLayout& layout, const std::byte* page, GridScratch* out) {
  for (int d = 0; d < layout.head_dim; d += 16) {
    const __mmask16 mask = static_cast<__mmask16>((1u << std::min(layout.head_dim - d, 16)) - 1);
    const __m256i scale = _mm256_maskz_loadu_epi16(mask, page + 2 * d);
    const __m256i low = _mm256_maskz_loadu_epi16(mask, page + 2 * (layout.head_dim + d));
    _mm512_store_ps(out->scale + d, _mm512_cvtph_ps(scale));
    _mm512_store_ps(out->low + d, _mm512_cvtph_ps(low));
  }
}

// Codes as floats; the permute drops the junk above the code.
template <int kBits>
inline __m512 Level16(const RunCodes& codes, int s, int i) {
  const __m512 levels =
      _mm512_cvtepi32_ps(_mm512_and_si512(Iota(), _mm512_set1_epi32((1 << kBits) - 1)));
  return _mm512_permutexvar_ps(Code16<kBits>(codes, s, i), levels);
}

void Encode(const ChannelLayout& layout, const float* x_TD, int n_tokens, std::byte* page) {
  const int D = layout.head_dim;
  float* tile = TileScratch(D);
  RowsToTile(x_TD, D, n_tokens, tile);
  const std::size_t grids_end = static_cast<std::size_t>(D) * 4;
  std::memset(page + grids_end, 0, (grids_end + 63) / 64 * 64 - grids_end);
  const __m512 top = Set(static_cast<float>((1 << layout.bits) - 1));
  for (int d = 0; d < D; ++d) {
    const float* x_T = tile + d * kRowFloats;
    __m512 x[8];
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) x[i] = _mm512_load_ps(x_T + 16 * i);
    __m512 low = x[0], high = x[0];
    PHASOR_UNROLL for (int i = 1; i < 8; ++i) {
      low = _mm512_min_ps(low, x[i]);
      high = _mm512_max_ps(high, x[i]);
    }
    const ChannelGrid grid =
        MakeChannelGrid(_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high), layout.bits);
    std::memcpy(page + 2 * d, &grid.scale, 2);
    std::memcpy(page + 2 * (D + d), &grid.low, 2);
    const __m128 stored = _mm_cvtph_ps(_mm_cvtsi32_si128(grid.scale | grid.low << 16));
    const float scale = _mm_cvtss_f32(stored);
    const __m512 start = Set(_mm_cvtss_f32(_mm_shuffle_ps(stored, stored, 1)));
    const __m512 inverse = Set(scale > 0.0f ? 1.0f / scale : 0.0f);
    __m512i code[8];
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
      const __m512 level = _mm512_mul_ps(_mm512_sub_ps(x[i], start), inverse);
      code[i] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(level, _mm512_setzero_ps()), top));
    }
    StoreCodes(code, layout.bits, layout.parts_D[d], page);
  }
}

template <int kBits>
void DecodeBits(const ChannelLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  GridScratch grid;
  LoadGrids(layout, page, &grid);
  float* tile = TileScratch(layout.head_dim);
  const RunCodes codes = CodesOf(layout, 0, page);
  for (int d = 0; d < layout.head_dim; ++d) {
    for (int i = 0; 16 * i < n_tokens; ++i) {
      const __m512 x =
          _mm512_fmadd_ps(Level16<kBits>(codes, d, i), Set(grid.scale[d]), Set(grid.low[d]));
      _mm512_store_ps(tile + d * kRowFloats + 16 * i, x);
    }
  }
  TileToRows(tile, layout.head_dim, n_tokens, x_TD);
}

// Scores of kHeads heads; q_GD is the first of them.
template <int kBits, int kHeads>
void ScoreHeads(const ChannelLayout& layout, const GridScratch& grid, const float* q_GD,
                const std::byte* page, int n_tokens, float* score_GT) {
  const int D = layout.head_dim;
  for (int d0 = 0; d0 < D; d0 += kChunkChannels) {
    const int count = std::min(D - d0, kChunkChannels);
    alignas(64) float folded[kHeads][kChunkChannels];
    float base[kHeads];
    for (int h = 0; h < kHeads; ++h) {
      __m512 sum = _mm512_setzero_ps();
      for (int d = 0; d < count; d += 16) {
        const __mmask16 mask = static_cast<__mmask16>((1u << std::min(count - d, 16)) - 1);
        const __m512 q = _mm512_maskz_loadu_ps(mask, q_GD + h * D + d0 + d);
        _mm512_store_ps(folded[h] + d, _mm512_mul_ps(q, _mm512_load_ps(grid.scale + d0 + d)));
        sum = _mm512_fmadd_ps(q, _mm512_load_ps(grid.low + d0 + d), sum);
      }
      base[h] = _mm512_reduce_add_ps(sum);
    }
    const RunCodes codes = CodesOf(layout, d0, page);
    for (int i = 0; 16 * i < n_tokens; i += 2) {
      __m512 acc[2][kHeads];
      PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
        PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
          acc[v][h] = Set(base[h]);
          if (d0 > 0) {
            const float* at = score_GT + h * kPageTokens + 16 * (i + v);
            acc[v][h] = _mm512_add_ps(acc[v][h], _mm512_loadu_ps(at));
          }
        }
      }
      for (int d = 0; d < count; ++d) {
        const __m512 x0 = Level16<kBits>(codes, d, i), x1 = Level16<kBits>(codes, d, i + 1);
        PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
          const __m512 q = Set(folded[h][d]);
          acc[0][h] = _mm512_fmadd_ps(q, x0, acc[0][h]);
          acc[1][h] = _mm512_fmadd_ps(q, x1, acc[1][h]);
        }
      }
      PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
        PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
          _mm512_storeu_ps(score_GT + h * kPageTokens + 16 * (i + v), acc[v][h]);
        }
      }
    }
  }
}

template <int kBits>
void ScoreBits(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
               int n_tokens, float* score_GT) {
  GridScratch grid;
  LoadGrids(layout, page, &grid);
  const int n_chunks = (g + kMaxChunkHeads - 1) / kMaxChunkHeads;
  for (int c = 0; c < n_chunks; ++c) {
    const int h0 = g * c / n_chunks, n_heads = g * (c + 1) / n_chunks - h0;
    const float* q = q_GD + h0 * layout.head_dim;
    float* score = score_GT + h0 * kPageTokens;
    switch (n_heads) {
      case 1:
        ScoreHeads<kBits, 1>(layout, grid, q, page, n_tokens, score);
        break;
      case 2:
        ScoreHeads<kBits, 2>(layout, grid, q, page, n_tokens, score);
        break;
      case 3:
        ScoreHeads<kBits, 3>(layout, grid, q, page, n_tokens, score);
        break;
      default:
        ScoreHeads<kBits, 4>(layout, grid, q, page, n_tokens, score);
    }
  }
}

template <int kBits>
void AccumulateBits(const ChannelLayout& layout, const float* weight_GT, int g,
                    const std::byte* page, int n_tokens, float* out_GD) {
  GridScratch grid;
  LoadGrids(layout, page, &grid);
  const RunCodes codes = CodesOf(layout, 0, page);
  for (int h = 0; h < g; ++h) {
    __m512 weight[8], sum = _mm512_setzero_ps();
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
      const int left = std::clamp(n_tokens - 16 * i, 0, 16);
      const __mmask16 mask = static_cast<__mmask16>((1u << left) - 1);
      weight[i] = _mm512_maskz_loadu_ps(mask, weight_GT + h * kPageTokens + 16 * i);
      sum = _mm512_add_ps(sum, weight[i]);
    }
    const float total = _mm512_reduce_add_ps(sum);
    for (int d = 0; d < layout.head_dim; ++d) {
      __m512 acc = _mm512_setzero_ps();
      PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
        acc = _mm512_fmadd_ps(weight[i], Level16<kBits>(codes, d, i), acc);
      }
      out_GD[h * layout.head_dim + d] +=
          total * grid.low[d] + grid.scale[d] * _mm512_reduce_add_ps(acc);
    }
  }
}

void Decode(const ChannelLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  (layout.bits == 4 ? DecodeBits<4> : DecodeBits<3>)(layout, page, n_tokens, x_TD);
}
void Score(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
           int n_tokens, float* score_GT) {
  (layout.bits == 4 ? ScoreBits<4> : ScoreBits<3>)(layout, q_GD, g, page, n_tokens, score_GT);
}
void Accumulate(const ChannelLayout& layout, const float* weight_GT, int g, const std::byte* page,
                int n_tokens, float* out_GD) {
  (layout.bits == 4 ? AccumulateBits<4> : AccumulateBits<3>)(layout, weight_GT, g, page, n_tokens,
                                                             out_GD);
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const ChannelKernels kChannelKernelsAvx512 = {Encode, Decode, Score, Accumulate};
}  // namespace phasor
#endif  // __x86_64__
