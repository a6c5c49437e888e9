// AVX2: pmaddwd and paddd per 8 lanes, two inner places and query. Four queries and 16 lanes keep 8
// accumulators in registers; unpacked codes serve all queries.
#include "kvcodec/int_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "simd/target.h"
#include "tensor/half.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

inline float RoundToF16(float x) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}

#include "kvcodec/int_kernels-inl.h"

// Half a tile (8 lanes, `half` 0 or 1): its packed bits, and the 16-bit codes of step s.
template <int BITS>
struct Tile;

inline __m256i Load256(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m128i Load128(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

template <>
struct Tile<4> {
  static constexpr int kBytes = 64, kSteps = 4;
  __m256i word;
  void Load(const std::byte* p, int half) { word = Load256(p + 32 * half); }
  __m256i Codes(int s) const {
    return _mm256_and_si256(_mm256_srli_epi16(word, 4 * s), _mm256_set1_epi16(15));
  }
};

template <>
struct Tile<8> {
  static constexpr int kBytes = 128, kSteps = 4;
  const std::byte* bytes;
  void Load(const std::byte* p, int half) { bytes = p + 16 * half; }
  __m256i Codes(int s) const { return _mm256_cvtepi8_epi16(Load128(bytes + 32 * s)); }
};

template <>
struct Tile<3> {
  static constexpr int kBytes = 96, kSteps = 8;
  __m256i low, high;
  void Load(const std::byte* p, int half) {
    low = Load256(p + 32 * half);
    // Two bits up, so that every step finds the high bit by a right shift.
    high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(Load128(p + 64 + 16 * half)), 2);
  }
  __m256i Codes(int s) const {
    const __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, 2 * s), _mm256_set1_epi16(3));
    const __m256i b = _mm256_and_si256(_mm256_srli_epi16(high, s), _mm256_set1_epi16(4));
    return _mm256_or_si256(a, b);
  }
};

inline __m256i WeightPair(const int16_t* w) {
  int32_t pair;
  __builtin_memcpy(&pair, w, sizeof(pair));
  return _mm256_set1_epi32(pair);
}

inline __m256 LoadF16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

struct Avx2 {
  static constexpr int kMaxLaneBlocks = 1;

  template <int BITS, int G>
  static inline __attribute__((always_inline)) void Dot(const IntPageShape& shape,
                                                        const std::byte* page, int lane, int first,
                                                        int end, uint64_t groups, const int16_t* w,
                                                        int w_stride, __m256i (*acc)[2]) {
    using T = Tile<BITS>;
    const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
    const std::byte* codes = page + shape.codes_at + lane * T::kBytes + first * row_bytes;
    w += first * (2 * T::kSteps);
    for (int i = 0; i < G; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
    for (int row = 0; row < end - first; ++row, codes += row_bytes, w += 2 * T::kSteps) {
      if ((groups >> (row & 63) & 1) == 0) continue;
      T tile[2];
      tile[0].Load(codes, 0);
      tile[1].Load(codes, 1);
      for (int s = 0; s < T::kSteps; ++s) {
        const __m256i c0 = tile[0].Codes(s), c1 = tile[1].Codes(s);
        for (int i = 0; i < G; ++i) {
          const __m256i pair = WeightPair(w + i * w_stride + 2 * s);
          acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(c0, pair));
          acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(c1, pair));
        }
      }
    }
  }

  template <int BITS, int G, int NB>
  static void ScoreLanes(const IntScoreArgs& a, int head, int lane) {
    const IntPageShape& shape = *a.shape;
    const int n_rows = shape.n_inner / shape.group, rows_per_block = shape.block / shape.group;
    const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
    __m256i acc[G][2];
    for (int b = 0; b < shape.n_blocks; ++b) {
      const int end = b + 1 == shape.n_blocks ? n_rows : (b + 1) * rows_per_block;
      Dot<BITS, G>(shape, a.page, lane, b * rows_per_block, end, ~0ull, a.q + head * shape.n_inner,
                   shape.n_inner, acc);
      for (int n = 0; n < 2; ++n) {
        const int token = 16 * lane + 8 * n;
        const __m256 scale = LoadF16(scales + b * kPageTokens + token);
        for (int i = 0; i < G; ++i) {
          float* score = a.score_GT + (head + i) * kPageTokens + token;
          const __m256i bias = _mm256_set1_epi32(a.q_bias[(head + i) * shape.n_blocks + b]);
          const __m256 sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(acc[i][n], bias));
          const __m256 f = _mm256_mul_ps(_mm256_set1_ps(a.q_step[head + i]), scale);
          _mm256_storeu_ps(score, b == 0 ? _mm256_mul_ps(sum, f)
                                         : _mm256_fmadd_ps(sum, f, _mm256_loadu_ps(score)));
        }
      }
    }
  }

  static uint32_t QuantizeWeights(const float* weight, const uint16_t* scale, int n_tokens,
                                  int16_t* w, float* step, int32_t* sum) {
    constexpr int kVectors = kPageTokens / 8;
    alignas(32) float product[kPageTokens], lane_max[8];
    __m256 largest = _mm256_setzero_ps();
    for (int v = 0; v < kVectors; ++v) {
      const __m256i index =
          _mm256_add_epi32(_mm256_set1_epi32(8 * v), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      const __m256i m = _mm256_cmpgt_epi32(_mm256_set1_epi32(n_tokens), index);
      const __m256 p = _mm256_mul_ps(_mm256_maskload_ps(weight + 8 * v, m), LoadF16(scale + 8 * v));
      _mm256_store_ps(product + 8 * v, p);
      largest = _mm256_max_ps(largest, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), p));
    }
    _mm256_store_ps(lane_max, largest);
    float top = 0;
    for (float x : lane_max) top = x > top ? x : top;
    *step = 0;
    __builtin_memset(w, 0, sizeof(int16_t) * kPageTokens);
    if (!(top >= kSmallestWeight)) return 0;
    *step = top / kWeightLevels;
    const __m256 inverse = _mm256_set1_ps(kWeightLevels / top);
    __m256i total = _mm256_setzero_si256();
    uint32_t octets = 0;
    for (int v = 0; v < kVectors; ++v) {
      const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(product + 8 * v), inverse));
      octets |= (_mm256_testz_si256(q, q) ? 0u : 1u) << v;
      total = _mm256_add_epi32(total, q);
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(q, q), 0x08);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(w + 8 * v), _mm256_castsi256_si128(packed));
    }
    alignas(32) int32_t lane_sum[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane_sum), total);
    for (int32_t x : lane_sum) *sum += x;
    return octets;
  }

  template <int BITS, int G, int NB>
  static void AccumulateLanes(const IntAccumulateArgs& a, const BlockWeights& weights, int head,
                              int lane) {
    const IntPageShape& shape = *a.shape;
    __m256i acc[G][2];
    Dot<BITS, G>(shape, a.page, lane, 0, kPageTokens / shape.group, weights.groups, weights.w[0],
                 kPageTokens, acc);
    for (int i = 0; i < G; ++i) {
      alignas(32) float sum[16];
      const __m256i bias = _mm256_set1_epi32(weights.bias[i]);
      const __m256 step = _mm256_set1_ps(weights.step[i]);
      for (int n = 0; n < 2; ++n) {
        const __m256 s = _mm256_cvtepi32_ps(_mm256_sub_epi32(acc[i][n], bias));
        _mm256_store_ps(sum + 8 * n, _mm256_mul_ps(s, step));
      }
      float* out = a.out_GD + (head + i) * shape.head_dim + 16 * lane;
      const int n_channels = shape.head_dim - 16 * lane < 16 ? shape.head_dim - 16 * lane : 16;
      for (int l = 0; l < n_channels; ++l) out[l] += sum[l];
    }
  }
};

constexpr IntKernels kSet = {Score<Avx2>, Accumulate<Avx2>, SearchScale};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const IntKernels* IntKernelsAvx2() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsAvx2() { return nullptr; }
}  // namespace phasor
#endif
