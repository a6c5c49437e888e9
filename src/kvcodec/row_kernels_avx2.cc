// AVX2, FMA and F16C: rows in vectors of 8. Scores take two tokens and up to four queries at a
// time, accumulation 16 channels of up to four outputs; the rest of a row goes through plain code.
#include "kvcodec/row_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "simd/target.h"
#include "tensor/half.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// NaN -> 0, infinity -> +-65504, then |x| <= limit.
inline __m256 MakeFinite(__m256 x, float limit) {
  const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
  const __m256 infinite = _mm256_cmp_ps(magnitude, _mm256_set1_ps(__builtin_inff()), _CMP_EQ_OQ);
  const __m256 ordered = _mm256_cmp_ps(x, x, _CMP_ORD_Q);
  __m256 m = _mm256_blendv_ps(magnitude, _mm256_set1_ps(65504.0f), infinite);
  m = _mm256_min_ps(m, _mm256_set1_ps(limit));
  return _mm256_and_ps(_mm256_or_ps(m, sign), ordered);
}

struct F32Row {
  using Stored = float;
  static __m256 Load(const float* p) { return _mm256_loadu_ps(p); }
  static float Load1(const float* p) { return *p; }
  static void Store(float* p, __m256 x) { _mm256_storeu_ps(p, MakeFinite(x, 0x1.fffffep127f)); }
};

struct F16Row {
  using Stored = uint16_t;
  static __m256 Load(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static float Load1(const uint16_t* p) { return _cvtsh_ss(*p); }
  static void Store(uint16_t* p, __m256 x) {
    const __m128i h = _mm256_cvtps_ph(MakeFinite(x, 65504.0f), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), h);
  }
};

struct Bf16Row {
  using Stored = uint16_t;
  static __m256 Load(const uint16_t* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
  static float Load1(const uint16_t* p) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(*p) << 16)));
  }
  static void Store(uint16_t* p, __m256 x) {
    const __m256i bits = _mm256_castps_si256(MakeFinite(x, 0x1.fep127f));
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff)), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(sum, sum), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
};

template <typename Row>
void Encode(const float* x, std::size_t n, void* out) {
  auto* stored = static_cast<typename Row::Stored*>(out);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) Row::Store(stored + i, _mm256_loadu_ps(x + i));
  if (i == n) return;
  float in[8] = {};
  typename Row::Stored last[8];
  for (std::size_t j = i; j < n; ++j) in[j - i] = x[j];
  Row::Store(last, _mm256_loadu_ps(in));
  for (std::size_t j = i; j < n; ++j) stored[j] = last[j - i];
}

template <typename Row>
void Decode(const void* in, std::size_t n, float* out) {
  const auto* stored = static_cast<const typename Row::Stored*>(in);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, Row::Load(stored + i));
  for (; i < n; ++i) out[i] = Row::Load1(stored + i);
}

inline float Sum(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

template <typename Row, int G>
void ScoreHeads(const float* q_GP, const void* in, int head_dim, int n_tokens, float* score_GT) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  const int stride = PaddedHeadDim(head_dim);
  for (int t = 0; t < n_tokens; t += 2) {
    const auto* row0 = rows + t * head_dim;
    const auto* row1 = t + 1 < n_tokens ? row0 + head_dim : row0;  // never past the last token
    __m256 acc0[G], acc1[G];
    PHASOR_UNROLL for (int i = 0; i < G; ++i) acc0[i] = acc1[i] = _mm256_setzero_ps();
    int d = 0;
    for (; d + 8 <= head_dim; d += 8) {
      const __m256 k0 = Row::Load(row0 + d), k1 = Row::Load(row1 + d);
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const __m256 q = _mm256_loadu_ps(q_GP + i * stride + d);
        acc0[i] = _mm256_fmadd_ps(q, k0, acc0[i]);
        acc1[i] = _mm256_fmadd_ps(q, k1, acc1[i]);
      }
    }
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      float sum0 = Sum(acc0[i]), sum1 = Sum(acc1[i]);
      for (int e = d; e < head_dim; ++e) {
        sum0 += q_GP[i * stride + e] * Row::Load1(row0 + e);
        sum1 += q_GP[i * stride + e] * Row::Load1(row1 + e);
      }
      score_GT[i * kPageTokens + t] = sum0;
      score_GT[i * kPageTokens + t + 1] = sum1;  // inside the row: t is even
    }
  }
}

template <typename Row, int G>
void AccumulateHeads(const float* weight_GT, const void* in, int head_dim, int n_tokens,
                     float* out_GD) {
  const auto* rows = static_cast<const typename Row::Stored*>(in);
  int d = 0;
  for (; d + 16 <= head_dim; d += 16) {
    __m256 acc[G][2];
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      acc[i][0] = _mm256_loadu_ps(out_GD + i * head_dim + d);
      acc[i][1] = _mm256_loadu_ps(out_GD + i * head_dim + d + 8);
    }
    const auto* row = rows + d;
    for (int t = 0; t < n_tokens; ++t, row += head_dim) {
      const __m256 v0 = Row::Load(row), v1 = Row::Load(row + 8);
      PHASOR_UNROLL for (int i = 0; i < G; ++i) {
        const __m256 w = _mm256_broadcast_ss(weight_GT + i * kPageTokens + t);
        acc[i][0] = _mm256_fmadd_ps(w, v0, acc[i][0]);
        acc[i][1] = _mm256_fmadd_ps(w, v1, acc[i][1]);
      }
    }
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      _mm256_storeu_ps(out_GD + i * head_dim + d, acc[i][0]);
      _mm256_storeu_ps(out_GD + i * head_dim + d + 8, acc[i][1]);
    }
  }
  for (; d < head_dim; ++d) {
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      float sum = 0;
      for (int t = 0; t < n_tokens; ++t) {
        sum += weight_GT[i * kPageTokens + t] * Row::Load1(rows + t * head_dim + d);
      }
      out_GD[i * head_dim + d] += sum;
    }
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
const RowKernels* RowKernelsAvx2(RowType type) {
  if (type == RowType::kF32) return &kSet<F32Row>;
  return type == RowType::kF16 ? &kSet<F16Row> : &kSet<Bf16Row>;
}
}  // namespace phasor
#else
namespace phasor {
const RowKernels* RowKernelsAvx2(RowType) { return nullptr; }
}  // namespace phasor
#endif
