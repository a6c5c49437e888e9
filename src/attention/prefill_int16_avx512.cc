#include "attention/prefill_int16.h"
#include "simd/cpu.h"

#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12 takes the undefined operand inside its own intrinsics for an error of ours (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "simd/avx512.h"
#include "simd/target.h"

namespace phasor {

bool HasInt16Attention() { return IsAvx512(ActiveCpuLevel()); }

}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

constexpr int kLanes = 16;
constexpr float kNorm = 32767.0f;
constexpr float kWeightBits = 13.0f;
constexpr float kMaxValue = 2047.0f;
// Stands for "nothing seen yet": finite, so that differences stay numbers.
constexpr float kNoScore = -1e30f;
constexpr float kLog2E = 1.44269504f;
static_assert(kPageTokens == 128, "bounds of the sums and buffers below");

__mmask16 FirstLanes(int n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

// 2^x for x <= 127: relative error below 4e-6, minimax polynomial of degree 4 on [0, 1).
inline __m512 Exp2(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
  __m512 p = _mm512_set1_ps(1.3534167e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.2011464e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4144275e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9300383e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0000026f));
  return _mm512_scalef_ps(p, x);
}

// Scale that brings a row of n floats to norm kNorm; 0 for a row of zeros.
inline float RowScale(const float* x, int n, float* inverse) {
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < n; i += kLanes) {
    const __m512 v = _mm512_maskz_loadu_ps(FirstLanes(n - i), x + i);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  const float norm = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(_mm512_reduce_add_ps(sum))));
  *inverse = norm / kNorm;
  return norm > 0 ? kNorm / norm : 0.0f;
}

// 32 floats of a row from column i on, n in all, as 16 pairs of int16.
inline __m512i RoundPairs(const float* x, int i, int n, __m512 scale) {
  const __m512 a = _mm512_maskz_loadu_ps(FirstLanes(n - i), x + i);
  const __m512 b = _mm512_maskz_loadu_ps(FirstLanes(n - i - kLanes), x + i + kLanes);
  const __m256i lo = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(a, scale)));
  const __m256i hi = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(b, scale)));
  return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

// 16 x 16 transpose of 32-bit lanes.
inline void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  PHASOR_UNROLL
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  PHASOR_UNROLL
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  PHASOR_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[j + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(r[j], r[j + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0xdd);
    t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[j + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[j + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
  PHASOR_UNROLL
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

void PackKeys(const float* k_TD, int n_tokens, int D, Int16Page* page) {
  const int n_pairs = Int16HeadDim(D) / 2;
  int32_t* out = page->keys.data();
  for (int t0 = 0; t0 < kPageTokens; t0 += kLanes) {
    const int n = std::min(kLanes, n_tokens - t0);
    if (n <= 0) {
      for (int j = 0; j < n_pairs; ++j) {
        _mm512_store_si512(out + j * kPageTokens + t0, _mm512_setzero_si512());
      }
      _mm512_store_ps(page->key_scale.data() + t0, _mm512_setzero_ps());
      continue;
    }
    float scale[kLanes] = {};
    for (int i = 0; i < kLanes; ++i) {
      page->key_scale[t0 + i] = 0;
      if (i < n) {
        scale[i] = RowScale(k_TD + static_cast<int64_t>(t0 + i) * D, D, &page->key_scale[t0 + i]);
      }
    }
    for (int j0 = 0; j0 < n_pairs; j0 += kLanes) {
      __m512i rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        rows[i] = i < n ? RoundPairs(k_TD + static_cast<int64_t>(t0 + i) * D, 2 * j0, D,
                                     _mm512_set1_ps(scale[i]))
                        : _mm512_setzero_si512();
      }
      Transpose16(rows);
      const int n_rows = std::min(kLanes, n_pairs - j0);
      for (int i = 0; i < n_rows; ++i) {
        _mm512_store_si512(out + (j0 + i) * kPageTokens + t0, rows[i]);
      }
    }
  }
}

// First token of pair `index` of the values: the order in which _mm512_packs_epi32 leaves the
// weights of 32 tokens.
inline int PairToken(int index) {
  const int lane = index % 16 / 4, word = index % 4;
  return index / 16 * 32 + lane * 4 + (word < 2 ? 2 * word : 16 + 2 * (word - 2));
}

void PackValues(const float* v_TD, int n_tokens, int D, Int16Page* page) {
  const int P = Int16HeadDim(D);
  int32_t* out = page->values.data();
  for (int d = 0; d < P; d += kLanes) {
    const __mmask16 lanes = FirstLanes(D - d);
    __m512 largest = _mm512_setzero_ps();
    for (int t = 0; t < n_tokens; ++t) {
      const __m512 v = _mm512_maskz_loadu_ps(lanes, v_TD + static_cast<int64_t>(t) * D + d);
      largest = _mm512_max_ps(_mm512_abs_ps(v), largest);
    }
    const __mmask16 some = _mm512_cmp_ps_mask(largest, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 factor = _mm512_maskz_div_ps(some, _mm512_set1_ps(kMaxValue), largest);
    _mm512_store_ps(page->value_scale.data() + d,
                    _mm512_mul_ps(largest, _mm512_set1_ps(1.0f / kMaxValue)));
    auto row = [&](int t) {
      if (t >= n_tokens) return _mm512_setzero_si512();
      const __m512 v = _mm512_maskz_loadu_ps(lanes, v_TD + static_cast<int64_t>(t) * D + d);
      return _mm512_cvtps_epi32(_mm512_mul_ps(v, factor));
    };
    for (int j = 0; j < kPageTokens / 2; ++j) {
      const int t = PairToken(j);
      // The even token in the low half, the odd one in the high half.
      const __m512i pair =
          _mm512_mask_blend_epi16(0xaaaaaaaau, row(t), _mm512_slli_epi32(row(t + 1), 16));
      _mm512_store_si512(out + static_cast<int64_t>(j) * P + d, pair);
    }
  }
}

// c = a * b over pairs of int16: kInt16TileRows rows of a [n_pairs, stride lda], 16 * kVectors
// columns of b [n_pairs, stride ldb], c with stride kPageTokens.
template <int kVectors>
void ProductTile(const int32_t* a, int lda, const int32_t* b, int ldb, int n_pairs, int32_t* c) {
  __m512i sums[kInt16TileRows][kVectors];
  PHASOR_UNROLL
  for (int r = 0; r < kInt16TileRows; ++r) {
    PHASOR_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_si512();
  }
  for (int j = 0; j < n_pairs; ++j, b += ldb) {
    __m512i columns[kVectors];
    PHASOR_UNROLL
    for (int v = 0; v < kVectors; ++v) columns[v] = _mm512_load_si512(b + kLanes * v);
    PHASOR_UNROLL
    for (int r = 0; r < kInt16TileRows; ++r) {
      const __m512i factor = _mm512_set1_epi32(a[r * lda + j]);
      PHASOR_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = _mm512_dpwssd_epi32(sums[r][v], factor, columns[v]);
      }
    }
  }
  PHASOR_UNROLL
  for (int r = 0; r < kInt16TileRows; ++r) {
    PHASOR_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      _mm512_store_si512(c + r * kPageTokens + kLanes * v, sums[r][v]);
    }
  }
}

using ProductFn = void (*)(const int32_t*, int, const int32_t*, int, int, int32_t*);

ProductFn ProductTileFor(int n_vectors) {
  switch (n_vectors) {
    case 1:
      return ProductTile<1>;
    case 2:
      return ProductTile<2>;
    case 3:
      return ProductTile<3>;
    default:
      return ProductTile<4>;
  }
}

// out = out * keep + product * scale * take for one tile of rows and n_vectors * 16 channels. Apart
// from ProductTile because GCC 12 keeps the sums in memory when their use is more than a store.
void AddTile(const int32_t* product, int n_vectors, const float* scale, const float* keep,
             const float* take, int P, float* out) {
  for (int v = 0; v < n_vectors; ++v) {
    const __m512 s = _mm512_load_ps(scale + kLanes * v);
    PHASOR_UNROLL
    for (int r = 0; r < kInt16TileRows; ++r) {
      float* o = out + static_cast<int64_t>(r) * P + kLanes * v;
      const __m512i sums = _mm512_load_si512(product + r * kPageTokens + kLanes * v);
      const __m512 add =
          _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(s, _mm512_set1_ps(take[r])));
      _mm512_store_ps(o, _mm512_fmadd_ps(_mm512_load_ps(o), _mm512_set1_ps(keep[r]), add));
    }
  }
}

// The tokens [begin, end) of vector i as a mask.
inline __mmask16 Visible(int i, int begin, int end) {
  return static_cast<__mmask16>(FirstLanes(end - kLanes * i) & ~FirstLanes(begin - kLanes * i));
}

// Softmax weights of one row over 16 * kVectors tokens, against their own maximum (returned, in
// powers of two). weight: int16 in packing order.
template <int kVectors, bool kMasked>
float WeightRow(const int32_t* score, const float* key_scale, float q_scale, int begin, int end,
                int32_t* weight, float* sum) {
  const __m512 nothing = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 x[kVectors];
  PHASOR_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    x[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(score + kLanes * i)),
                         _mm512_loadu_ps(key_scale + kLanes * i));
    if (kMasked) x[i] = _mm512_mask_mov_ps(nothing, Visible(i, begin, end), x[i]);
  }
  __m512 best = x[0];
  PHASOR_UNROLL
  for (int i = 1; i < kVectors; ++i) best = _mm512_max_ps(best, x[i]);
  const float max = std::max(_mm512_reduce_max_ps(best), kNoScore);
  const __m512 largest = _mm512_set1_ps(max), factor = _mm512_set1_ps(q_scale);
  const __m512 bits = _mm512_set1_ps(kWeightBits);
  __m512i total = _mm512_setzero_si512();
  PHASOR_UNROLL
  for (int i = 0; i < kVectors; i += 2) {
    __m512i w[2];
    PHASOR_UNROLL
    for (int h = 0; h < 2; ++h) {
      // The difference first: exactly 0 for the largest, however large it is.
      __m512 y = _mm512_fmadd_ps(_mm512_sub_ps(x[i + h], largest), factor, bits);
      // Again: a query of zeros turns the minus infinities into NaN.
      if (kMasked) y = _mm512_mask_mov_ps(nothing, Visible(i + h, begin, end), y);
      w[h] = _mm512_cvtps_epi32(Exp2(y));
    }
    const __m512i packed = _mm512_packs_epi32(w[0], w[1]);
    total = _mm512_dpwssd_epi32(total, packed, _mm512_set1_epi16(1));
    _mm512_store_si512(weight + kLanes / 2 * i, packed);
  }
  *sum = static_cast<float>(_mm512_reduce_add_epi32(total));
  return max * q_scale;
}

using WeightFn = float (*)(const int32_t*, const float*, float, int, int, int32_t*, float*);

template <bool kMasked>
WeightFn WeightRowFor(int n_vectors) {
  switch (n_vectors) {
    case 2:
      return WeightRow<2, kMasked>;
    case 4:
      return WeightRow<4, kMasked>;
    case 6:
      return WeightRow<6, kMasked>;
    default:
      return WeightRow<8, kMasked>;
  }
}

// Raises the running maxima and sums of 16 rows; the factors for what was there and what is new.
inline void MergeRows(const float* page_max, const float* page_sum, __mmask16 lanes, float* max,
                      float* sum, float* keep, float* take) {
  const __m512 m = _mm512_load_ps(page_max);
  const __m512 old = _mm512_mask_loadu_ps(_mm512_set1_ps(kNoScore), lanes, max);
  const __m512 best = _mm512_max_ps(old, m);
  const __m512 k = Exp2(_mm512_sub_ps(old, best)), t = Exp2(_mm512_sub_ps(m, best));
  _mm512_store_ps(keep, k);
  _mm512_store_ps(take, t);
  _mm512_mask_storeu_ps(max, lanes, best);
  const __m512 s = _mm512_maskz_loadu_ps(lanes, sum);
  _mm512_mask_storeu_ps(sum, lanes,
                        _mm512_fmadd_ps(t, _mm512_load_ps(page_sum), _mm512_mul_ps(s, k)));
}

struct GroupBuffers {
  alignas(64) int32_t score[kInt16GroupRows * kPageTokens];
  alignas(64) int32_t weight[kInt16GroupRows * kPageTokens / 2];
  alignas(64) float max[2 * kLanes], sum[2 * kLanes], keep[2 * kLanes], take[2 * kLanes];
};
static_assert(kInt16GroupRows <= 2 * kLanes);

void ScoreGroup(const Int16Page& page, const Int16Block& block, const Int16Span& span, int rows,
                int32_t* score) {
  const int n_pairs = Int16HeadDim(block.head_dim) / 2;
  const int32_t* q = block.q.data() + static_cast<int64_t>(span.first_row) * n_pairs;
  for (int t = span.first_token; t < span.last_token; t += 4 * kLanes) {
    const auto product = ProductTileFor((span.last_token - t) / kLanes);
    for (int r = 0; r < rows; r += kInt16TileRows) {
      product(q + static_cast<int64_t>(r) * n_pairs, n_pairs, page.keys.data() + t, kPageTokens,
              n_pairs, score + r * kPageTokens + (t - span.first_token));
    }
  }
}

void ValueGroup(const Int16Page& page, const Int16Span& span, int rows, GroupBuffers& b,
                Int16Block* block) {
  const int P = Int16HeadDim(block->head_dim);
  const int n_pairs = (span.last_token - span.first_token) / 2;
  const int32_t* values = page.values.data() + static_cast<int64_t>(span.first_token / 2) * P;
  for (int d = 0; d < P; d += 4 * kLanes) {
    const int n_vectors = std::min(4, (P - d) / kLanes);
    const auto product = ProductTileFor(n_vectors);
    for (int r = 0; r < rows; r += kInt16TileRows) {
      product(b.weight + r * (kPageTokens / 2), kPageTokens / 2, values + d, P, n_pairs, b.score);
      AddTile(b.score, n_vectors, page.value_scale.data() + d, b.keep + r, b.take + r, P,
              block->out.data() + static_cast<int64_t>(span.first_row + r) * P + d);
    }
  }
}

int PaddedRows(int n) { return (n + kInt16TileRows - 1) / kInt16TileRows * kInt16TileRows; }

}  // namespace

void StartInt16Block(int n_rows, int head_dim, Int16Block* block) {
  const int P = Int16HeadDim(head_dim), rows = PaddedRows(n_rows);
  block->head_dim = head_dim;
  block->n_rows = n_rows;
  block->q.Resize(static_cast<std::size_t>(rows) * P / 2);
  block->out.Resize(static_cast<std::size_t>(rows) * P);
  block->q_scale.Resize(rows);
  block->max.Resize(rows);
  block->sum.Resize(rows);
  std::fill_n(block->out.data(), block->out.size(), 0.0f);
  std::fill_n(block->max.data(), rows, kNoScore);
  std::fill_n(block->sum.data(), rows, 0.0f);
  std::fill_n(block->q.data(), block->q.size(), 0);
  std::fill_n(block->q_scale.data(), rows, 0.0f);
}

void SetInt16Queries(const float* q_RD, Int16Block* block) {
  const int head_dim = block->head_dim, P = Int16HeadDim(head_dim);
  for (int r = 0; r < block->n_rows; ++r) {
    const float* x = q_RD + static_cast<int64_t>(r) * head_dim;
    float inverse;
    const __m512 scale = _mm512_set1_ps(RowScale(x, head_dim, &inverse));
    block->q_scale[r] = inverse * kLog2E;
    for (int j = 0; j < P / 2; j += kLanes) {
      _mm512_mask_storeu_epi32(block->q.data() + static_cast<int64_t>(r) * (P / 2) + j,
                               FirstLanes(P / 2 - j), RoundPairs(x, 2 * j, head_dim, scale));
    }
  }
}

void PackInt16Page(const float* k_TD, const float* v_TD, int n_tokens, int head_dim,
                   Int16Page* page) {
  const std::size_t P = static_cast<std::size_t>(Int16HeadDim(head_dim));
  page->head_dim = head_dim;
  page->keys.Resize(P / 2 * kPageTokens);
  page->values.Resize(P * (kPageTokens / 2));
  page->key_scale.Resize(kPageTokens);
  page->value_scale.Resize(P);
  PackKeys(k_TD, n_tokens, head_dim, page);
  PackValues(v_TD, n_tokens, head_dim, page);
}

void AttendInt16Rows(const Int16Page& page, const Int16Span& span, Int16Block* block) {
  PHASOR_DCHECK(span.first_row % kInt16TileRows == 0 && span.n_rows <= kInt16GroupRows);
  PHASOR_DCHECK(span.first_token % kInt16TokenStep == 0 && span.last_token % kInt16TokenStep == 0);
  GroupBuffers b;
  const int rows = PaddedRows(span.n_rows);
  ScoreGroup(page, *block, span, rows, b.score);
  const int n_vectors = (span.last_token - span.first_token) / kLanes;
  const bool masked = span.begin != nullptr;
  const WeightFn weigh = masked ? WeightRowFor<true>(n_vectors) : WeightRowFor<false>(n_vectors);
  for (int r = 0; r < rows; ++r) {
    const bool padding = r >= span.n_rows;
    const int begin = masked && !padding ? span.begin[r] - span.first_token : 0;
    const int end = masked && !padding ? span.end[r] - span.first_token : 0;
    b.max[r] = weigh(b.score + r * kPageTokens, page.key_scale.data() + span.first_token,
                     block->q_scale[span.first_row + r], begin, end,
                     b.weight + r * (kPageTokens / 2), &b.sum[r]);
  }
  for (int r = 0; r < rows; r += kLanes) {
    MergeRows(b.max + r, b.sum + r, FirstLanes(rows - r), block->max.data() + span.first_row + r,
              block->sum.data() + span.first_row + r, b.keep + r, b.take + r);
  }
  ValueGroup(page, span, rows, b, block);
}

void FinishInt16Block(const Int16Block& block, float* out_RD) {
  const int D = block.head_dim, P = Int16HeadDim(D);
  for (int r = 0; r < block.n_rows; ++r) {
    const float sum = block.sum[r];
    const __m512 factor = _mm512_set1_ps(sum > 0 ? 1.0f / sum : 0.0f);
    for (int d = 0; d < D; d += kLanes) {
      const __mmask16 lanes = FirstLanes(D - d);
      const __m512 v = _mm512_load_ps(block.out.data() + static_cast<int64_t>(r) * P + d);
      _mm512_mask_storeu_ps(out_RD + static_cast<int64_t>(r) * D + d, lanes,
                            _mm512_mul_ps(v, factor));
    }
  }
}

}  // namespace phasor
PHASOR_END_TARGET

#else  // other processors: never called, HasInt16Attention() says no

namespace phasor {

bool HasInt16Attention() { return false; }
void StartInt16Block(int, int, Int16Block*) {}
void SetInt16Queries(const float*, Int16Block*) {}
void PackInt16Page(const float*, const float*, int, int, Int16Page*) {}
void AttendInt16Rows(const Int16Page&, const Int16Span&, Int16Block*) {}
void FinishInt16Block(const Int16Block&, float*) {}

}  // namespace phasor
#endif
