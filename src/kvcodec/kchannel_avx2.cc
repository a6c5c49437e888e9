// Scores and sums of the per-channel integer codecs for AVX2: lanes are tokens, 8 at a time; codes
// become floats once for up to four query heads. Pages are written and decoded by the plain loops.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "kvcodec/kchannel.h"
#include "kvcodec/packed_field_avx2-inl.h"
#include "simd/target.h"

#if defined(__clang__)
#define PHASOR_UNROLL _Pragma("unroll")
#else
#define PHASOR_UNROLL _Pragma("GCC unroll 16")
#endif

namespace phasor {
namespace {

constexpr int kMaxChunkHeads = 4;

struct alignas(32) GridScratch {
  float scale[kMaxChannelHeadDim], low[kMaxChannelHeadDim];
};

Codes CodesOf(const ChannelLayout& layout, const std::byte* page) {
  Codes codes;
  for (int p = 0; p < 4; ++p) codes.part[p] = page + layout.parts_D[0].at[p];
  return codes;
}

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

inline __m256 Set(float x) { return _mm256_set1_ps(x); }
inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline float SumLanes(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

void LoadGrids(const ChannelLayout& layout, const std::byte* page, GridScratch* out) {
  const int D = layout.head_dim;
  int d = 0;
  for (; d + 8 <= D; d += 8) {
    const auto* scale = reinterpret_cast<const __m128i*>(page + 2 * d);
    const auto* low = reinterpret_cast<const __m128i*>(page + 2 * (D + d));
    _mm256_store_ps(out->scale + d, _mm256_cvtph_ps(_mm_loadu_si128(scale)));
    _mm256_store_ps(out->low + d, _mm256_cvtph_ps(_mm_loadu_si128(low)));
  }
  for (; d < D; ++d) {
    uint16_t scale, low;
    std::memcpy(&scale, page + 2 * d, 2);
    std::memcpy(&low, page + 2 * (D + d), 2);
    out->scale[d] = _cvtsh_ss(scale);
    out->low[d] = _cvtsh_ss(low);
  }
}

template <int kBits>
inline __m256 Level8(const Codes& codes, int d, int e) {
  return _mm256_cvtepi32_ps(Code8<kBits>(codes, d, e));
}

// Scores of kHeads heads; q_GD is the first of them. folded: [D][kHeads].
template <int kBits, int kHeads>
void ScoreHeads(const ChannelLayout& layout, const GridScratch& grid, const float* q_GD,
                const std::byte* page, int n_tokens, float* score_GT) {
  const int D = layout.head_dim;
  alignas(32) float folded[kMaxChannelHeadDim * kHeads];
  float base[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    base[h] = 0;
    for (int d = 0; d < D; ++d) {
      base[h] += q_GD[h * D + d] * grid.low[d];
      folded[d * kHeads + h] = q_GD[h * D + d] * grid.scale[d];
    }
  }
  const Codes codes = CodesOf(layout, page);
  for (int e = 0; 8 * e < n_tokens; e += 2) {  // whole vectors of 16, inside each row of the page
    __m256 acc[2][kHeads];
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) acc[0][h] = acc[1][h] = Set(base[h]);
    for (int d = 0; d < D; ++d) {
      const __m256 x0 = Level8<kBits>(codes, d, e), x1 = Level8<kBits>(codes, d, e + 1);
      PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
        const __m256 q = Set(folded[d * kHeads + h]);
        acc[0][h] = _mm256_fmadd_ps(q, x0, acc[0][h]);
        acc[1][h] = _mm256_fmadd_ps(q, x1, acc[1][h]);
      }
    }
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
      _mm256_storeu_ps(score_GT + h * kPageTokens + 8 * e, acc[0][h]);
      _mm256_storeu_ps(score_GT + h * kPageTokens + 8 * e + 8, acc[1][h]);
    }
  }
}

// Sums of kHeads heads; weight_GT and out_GD are the first of them.
template <int kBits, int kHeads>
void AccumulateHeads(const ChannelLayout& layout, const GridScratch& grid, const float* weight_GT,
                     const std::byte* page, int n_tokens, float* out_GD) {
  alignas(32) float weight[kHeads][kPageTokens];
  float total[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    __m256 sum = _mm256_setzero_ps();
    for (int t = 0; t < kPageTokens; t += 8) {
      const __m256 w =
          _mm256_maskload_ps(weight_GT + h * kPageTokens + t, FirstLanes(n_tokens - t));
      _mm256_store_ps(weight[h] + t, w);
      sum = _mm256_add_ps(sum, w);
    }
    total[h] = SumLanes(sum);
  }
  const Codes codes = CodesOf(layout, page);
  for (int d = 0; d < layout.head_dim; ++d) {
    __m256 acc[2][kHeads];
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) acc[0][h] = acc[1][h] = _mm256_setzero_ps();
    for (int e = 0; 8 * e < n_tokens; e += 2) {
      const __m256 x0 = Level8<kBits>(codes, d, e), x1 = Level8<kBits>(codes, d, e + 1);
      PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
        acc[0][h] = _mm256_fmadd_ps(_mm256_load_ps(weight[h] + 8 * e), x0, acc[0][h]);
        acc[1][h] = _mm256_fmadd_ps(_mm256_load_ps(weight[h] + 8 * e + 8), x1, acc[1][h]);
      }
    }
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
      out_GD[h * layout.head_dim + d] +=
          total[h] * grid.low[d] + grid.scale[d] * SumLanes(_mm256_add_ps(acc[0][h], acc[1][h]));
    }
  }
}

// Up to kMaxChunkHeads heads at a time, as even as can be. in, out: rows of n_in and n_out floats
// per head.
template <int kBits, bool kScore, int kHeads = kMaxChunkHeads>
void RunHeads(const ChannelLayout& layout, const GridScratch& grid, int n_heads, const float* in,
              const std::byte* page, int n_tokens, float* out) {
  if constexpr (kHeads > 1) {
    if (n_heads < kHeads) {
      return RunHeads<kBits, kScore, kHeads - 1>(layout, grid, n_heads, in, page, n_tokens, out);
    }
  }
  if constexpr (kScore) {
    ScoreHeads<kBits, kHeads>(layout, grid, in, page, n_tokens, out);
  } else {
    AccumulateHeads<kBits, kHeads>(layout, grid, in, page, n_tokens, out);
  }
}

template <bool kScore>
void RunPage(const ChannelLayout& layout, const float* in, int g, const std::byte* page,
             int n_tokens, float* out) {
  GridScratch grid;
  LoadGrids(layout, page, &grid);
  const int n_in = kScore ? layout.head_dim : kPageTokens;
  const int n_out = kScore ? kPageTokens : layout.head_dim;
  const int n_chunks = (g + kMaxChunkHeads - 1) / kMaxChunkHeads;
  for (int c = 0; c < n_chunks; ++c) {
    const int h = g * c / n_chunks, n_heads = g * (c + 1) / n_chunks - h;
    const auto run = layout.bits == 4 ? RunHeads<4, kScore> : RunHeads<3, kScore>;
    run(layout, grid, n_heads, in + h * n_in, page, n_tokens, out + h * n_out);
  }
}

}  // namespace

void ScoreChannelsAvx2(const ChannelLayout& layout, const float* q_GD, int g, const std::byte* page,
                       int n_tokens, float* score_GT) {
  RunPage<true>(layout, q_GD, g, page, n_tokens, score_GT);
}

void AccumulateChannelsAvx2(const ChannelLayout& layout, const float* weight_GT, int g,
                            const std::byte* page, int n_tokens, float* out_GD) {
  RunPage<false>(layout, weight_GT, g, page, n_tokens, out_GD);
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
