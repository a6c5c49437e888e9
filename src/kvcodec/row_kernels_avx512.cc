// AVX-512: rows in vectors of 16. Scores take four tokens and up to four queries at a time, so that
// a key row is loaded and widened once for all queries; accumulation keeps 64 channels of up to
// four outputs in registers over all tokens.
#include "kvcodec/row_kernels.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns about its own _mm512_undefined_* (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// NaN -> 0, infinity -> +-65504.
inline __m512 MakeFinite(__m512 x) {
  const __mmask16 nan = _mm512_fpclass_ps_mask(x, 0x81);
  const __mmask16 plus = _mm512_fpclass_ps_mask(x, 0x08);
  const __mmask16 minus = _mm512_fpclass_ps_mask(x, 0x10);
  x = _mm512_mask_mov_ps(x, nan, _mm512_setzero_ps());
  x = _mm512_mask_mov_ps(x, plus, _mm512_set1_ps(65504.0f));
  return _mm512_mask_mov_ps(x, minus, _mm512_set1_ps(-65504.0f));
}

inline __m512 Clamp(__m512 x, float limit) {
  return _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(limit)), _mm512_set1_ps(-limit));
}

struct F32Row {
  using Stored = float;
  static __m512 Load(const float* p) { return _mm512_loadu_ps(p); }
  static __m512 Load(const float* p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
  static void Store(float* p, __mmask16 m, __m512 x) { _mm512_mask_storeu_ps(p, m, MakeFinite(x)); }
};

struct F16Row {
  using Stored = uint16_t;
  static __m512 Load(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 Load(const uint16_t* p, __mmask16 m) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p));
  }
  static void Store(uint16_t* p, __mmask16 m, __m512 x) {
    x = Clamp(MakeFinite(x), 65504.0f);
    _mm256_mask_storeu_epi16(p, m, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
};

struct Bf16Row {
  using Stored = uint16_t;
  static __m512 Widen(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static __m512 Load(const uint16_t* p) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 Load(const uint16_t* p, __mmask16 m) {
    return Widen(_mm256_maskz_loadu_epi16(m, p));
  }
  static void Store(uint16_t* p, __mmask16 m, __m512 x) {
    const __m512i bits = _mm512_castps_si512(Clamp(MakeFinite(x), 0x1.fep127f));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(_mm512_srli_epi32(sum, 16)));
  }
};

inline __mmask16 TailMask(std::size_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

template <typename Row>
void Encode(const float* x, std::size_t n, void* out) {
  auto* stored = static_cast<typename Row::Stored*>(out);
  for (std::size_t i = 0; i < n; i += 16) {
    const __mmask16 m = TailMask(n - i);
    Row::Store(stored + i, m, _mm512_maskz_loadu_ps(m, x + i));
  }
}

template <typename Row>
void Decode(const void* in, std::size_t n, float* out) {
  const auto* stored = static_cast<const typename Row::Stored*>(in);
  for (std::size_t i = 0; i < n; i += 16) {
    const __mmask16 m = TailMask(n - i);
    _mm512_mask_storeu_ps(out + i, m, Row::Load(stored + i, m));
  }
}

// Sums of four vectors, as the four floats of the result.
inline __m128 Sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// Four tokens, full vectors of 16 channels and the masked rest; `rows` and `q` advance together.
template <typename Row, int G>
inline __attribute__((always_inline)) void ScoreFour(const float* q_GP,
                                                     const typename Row::Stored* rows, int head_dim,
                                                     const int* token, __m128* sum) {
  const int stride = PaddedHeadDim(head_dim);
  __m512 acc[G][4];
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = _mm512_setzero_ps();
  }
  const typename Row::Stored* row[4];
  PHASOR_UNROLL for (int j = 0; j < 4; ++j) row[j] = rows + token[j] * head_dim;
  int d = 0;
  for (; d + 16 <= head_dim; d += 16) {
    __m512 k[4];
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) k[j] = Row::Load(row[j] + d);
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      const __m512 q = _mm512_loadu_ps(q_GP + i * stride + d);
      PHASOR_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = _mm512_fmadd_ps(q, k[j], acc[i][j]);
    }
  }
  if (d < head_dim) {
    const __mmask16 m = TailMask(head_dim - d);
    __m512 k[4];
    PHASOR_UNROLL for (int j = 0; j < 4; ++j) k[j] = Row::Load(row[j] + d, m);
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      const __m512 q = _mm512_loadu_ps(q_GP + i * stride + d);
      PHASOR_UNROLL for (int j = 0; j < 4; ++j) acc[i][j] = _mm512_fmadd_ps(q, k[j], acc[i][j]);
    }
  }
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    sum[i] = Sum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
  }
}

template <typename Row, int G>
void ScoreHeads(const float* q_GP, const void* in, int head_dim, int n_tokens, float* score_GT) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  __m128 sum[G];
  for (int t = 0; t < n_tokens; t += 4) {
    int token[4];  // past the end the last token repeats, so that nothing undefined is read
    for (int j = 0; j < 4; ++j) token[j] = t + j < n_tokens ? t + j : n_tokens - 1;
    ScoreFour<Row, G>(q_GP, rows, head_dim, token, sum);
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      _mm_storeu_ps(score_GT + i * kPageTokens + t, sum[i]);
    }
  }
}

// C full vectors of channels (the last one masked by `m`) of G outputs.
template <typename Row, int G, int C>
void AccumulateBlock(const float* weight_GT, const typename Row::Stored* rows, int head_dim,
                     int n_tokens, __mmask16 m, float* out_GD) {
  __m512 acc[G][C];
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    PHASOR_UNROLL for (int c = 0; c < C; ++c) {
      acc[i][c] = _mm512_maskz_loadu_ps(c + 1 < C ? 0xffff : m, out_GD + i * head_dim + 16 * c);
    }
  }
  for (int t = 0; t < n_tokens; ++t, rows += head_dim) {
    __m512 v[C];
    PHASOR_UNROLL for (int c = 0; c + 1 < C; ++c) v[c] = Row::Load(rows + 16 * c);
    v[C - 1] = m == 0xffff ? Row::Load(rows + 16 * (C - 1)) : Row::Load(rows + 16 * (C - 1), m);
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      const __m512 w = _mm512_set1_ps(weight_GT[i * kPageTokens + t]);
      PHASOR_UNROLL for (int c = 0; c < C; ++c) acc[i][c] = _mm512_fmadd_ps(w, v[c], acc[i][c]);
    }
  }
  PHASOR_UNROLL for (int i = 0; i < G; ++i) {
    PHASOR_UNROLL for (int c = 0; c < C; ++c) {
      _mm512_mask_storeu_ps(out_GD + i * head_dim + 16 * c, c + 1 < C ? 0xffff : m, acc[i][c]);
    }
  }
}

template <typename Row, int G>
void AccumulateHeads(const float* weight_GT, const void* in, int head_dim, int n_tokens,
                     float* out_GD) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  int d = 0;
  for (; d + 64 <= head_dim; d += 64) {
    AccumulateBlock<Row, G, 4>(weight_GT, rows + d, head_dim, n_tokens, 0xffff, out_GD + d);
  }
  for (; d < head_dim; d += 16) {
    AccumulateBlock<Row, G, 1>(weight_GT, rows + d, head_dim, n_tokens, TailMask(head_dim - d),
                               out_GD + d);
  }
}

template <typename Row>
void Score(const float* q_GP, int g, const void* rows, int head_dim, int n_tokens,
           float* score_GT) {
  const int stride = PaddedHeadDim(head_dim);
  for (; g > 0; g -= 4, q_GP += 4 * stride, score_GT += 4 * kPageTokens) {
    if (g >= 4) ScoreHeads<Row, 4>(q_GP, rows, head_dim, n_tokens, score_GT);
    if (g == 3) ScoreHeads<Row, 3>(q_GP, rows, head_dim, n_tokens, score_GT);
    if (g == 2) ScoreHeads<Row, 2>(q_GP, rows, head_dim, n_tokens, score_GT);
    if (g == 1) ScoreHeads<Row, 1>(q_GP, rows, head_dim, n_tokens, score_GT);
  }
}

template <typename Row>
void Accumulate(const float* weight_GT, int g, const void* rows, int head_dim, int n_tokens,
                float* out_GD) {
  for (; g > 0; g -= 4, weight_GT += 4 * kPageTokens, out_GD += 4 * head_dim) {
    if (g >= 4) AccumulateHeads<Row, 4>(weight_GT, rows, head_dim, n_tokens, out_GD);
    if (g == 3) AccumulateHeads<Row, 3>(weight_GT, rows, head_dim, n_tokens, out_GD);
    if (g == 2) AccumulateHeads<Row, 2>(weight_GT, rows, head_dim, n_tokens, out_GD);
    if (g == 1) AccumulateHeads<Row, 1>(weight_GT, rows, head_dim, n_tokens, out_GD);
  }
}

template <typename Row>
constexpr RowKernels kSet = {Encode<Row>, Decode<Row>, Score<Row>, Accumulate<Row>};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const RowKernels* RowKernelsAvx512(RowType type) {
  if (type == RowType::kF32) return &kSet<F32Row>;
  return type == RowType::kF16 ? &kSet<F16Row> : &kSet<Bf16Row>;
}
}  // namespace phasor
#else
namespace phasor {
const RowKernels* RowKernelsAvx512(RowType) { return nullptr; }
}  // namespace phasor
#endif
