// AVX-512 VNNI: one vpdpwssd per 16 lanes, two inner places and query. Four queries and 64 lanes
// keep 16 accumulators in registers; unpacked codes serve all queries.
#include "kvcodec/int_kernels.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns about its own _mm512_undefined_* (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "simd/target.h"
#include "tensor/half.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

inline float RoundToF16(float x) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}

#include "kvcodec/int_kernels-inl.h"

// The packed bits of 16 lanes x group inner places, and the 16-bit codes of step s.
template <int BITS>
struct Tile;

template <>
struct Tile<4> {
  static constexpr int kBytes = 64, kSteps = 4;
  __m512i word;
  void Load(const std::byte* p) { word = _mm512_loadu_si512(p); }
  __m512i Codes(int s) const {
    const __m512i shifted = s == 0 ? word : _mm512_srli_epi16(word, 4 * s);
    return s == 3 ? shifted : _mm512_and_si512(shifted, _mm512_set1_epi16(15));
  }
};

template <>
struct Tile<8> {
  static constexpr int kBytes = 128, kSteps = 4;
  const std::byte* bytes;
  void Load(const std::byte* p) { bytes = p; }
  __m512i Codes(int s) const {
    return _mm512_cvtepi8_epi16(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32 * s)));
  }
};

template <>
struct Tile<3> {
  static constexpr int kBytes = 96, kSteps = 8;
  __m512i low, high;
  void Load(const std::byte* p) {
    low = _mm512_loadu_si512(p);
    high = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 64)));
  }
  __m512i Codes(int s) const {
    const __m512i a = s == 0 ? low : _mm512_srli_epi16(low, 2 * s);
    const __m512i b = s < 2 ? _mm512_slli_epi16(high, 2 - s) : _mm512_srli_epi16(high, s - 2);
    // (3 & a) | (~3 & b), then the bits above the code are cut.
    const __m512i both = _mm512_ternarylogic_epi32(_mm512_set1_epi16(3), a, b, 0xca);
    return _mm512_and_si512(both, _mm512_set1_epi16(7));
  }
};

inline __m512i WeightPair(const int16_t* w) {
  int32_t pair;
  __builtin_memcpy(&pair, w, sizeof(pair));
  return _mm512_set1_epi32(pair);
}

inline __m512 LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline __mmask16 TailMask(int n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

struct Avx512 {
  static constexpr int kMaxLaneBlocks = 4;

  template <int BITS, int G, int NB>
  static inline __attribute__((always_inline)) void Dot(const IntPageShape& shape,
                                                        const std::byte* page, int lane, int first,
                                                        int end, uint64_t groups, const int16_t* w,
                                                        int w_stride, __m512i (*acc)[NB]) {
    using T = Tile<BITS>;
    const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
    const std::byte* codes = page + shape.codes_at + lane * T::kBytes + first * row_bytes;
    w += first * (2 * T::kSteps);
    for (int i = 0; i < G; ++i) {
      for (int n = 0; n < NB; ++n) acc[i][n] = _mm512_setzero_si512();
    }
    for (int row = 0; row < end - first; ++row, codes += row_bytes, w += 2 * T::kSteps) {
      if ((groups >> (row & 63) & 1) == 0) continue;
      T tile[NB];
      for (int n = 0; n < NB; ++n) tile[n].Load(codes + n * T::kBytes);
      for (int s = 0; s < T::kSteps; ++s) {
        __m512i c[NB];
        for (int n = 0; n < NB; ++n) c[n] = tile[n].Codes(s);
        for (int i = 0; i < G; ++i) {
          const __m512i pair = WeightPair(w + i * w_stride + 2 * s);
          for (int n = 0; n < NB; ++n) acc[i][n] = _mm512_dpwssd_epi32(acc[i][n], c[n], pair);
        }
      }
    }
  }

  template <int BITS, int G, int NB>
  static void ScoreLanes(const IntScoreArgs& a, int head, int lane) {
    const IntPageShape& shape = *a.shape;
    const int n_rows = shape.n_inner / shape.group, rows_per_block = shape.block / shape.group;
    const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
    __m512i acc[G][NB];
    for (int b = 0; b < shape.n_blocks; ++b) {
      const int end = b + 1 == shape.n_blocks ? n_rows : (b + 1) * rows_per_block;
      Dot<BITS, G, NB>(shape, a.page, lane, b * rows_per_block, end, ~0ull,
                       a.q + head * shape.n_inner, shape.n_inner, acc);
      for (int n = 0; n < NB; ++n) {
        const int token = 16 * (lane + n);
        const __m512 scale = LoadF16(scales + b * kPageTokens + token);
        for (int i = 0; i < G; ++i) {
          float* score = a.score_GT + (head + i) * kPageTokens + token;
          const __m512i bias = _mm512_set1_epi32(a.q_bias[(head + i) * shape.n_blocks + b]);
          const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc[i][n], bias));
          const __m512 f = _mm512_mul_ps(_mm512_set1_ps(a.q_step[head + i]), scale);
          _mm512_storeu_ps(score, b == 0 ? _mm512_mul_ps(sum, f)
                                         : _mm512_fmadd_ps(sum, f, _mm512_loadu_ps(score)));
        }
      }
    }
  }

  static uint32_t QuantizeWeights(const float* weight, const uint16_t* scale, int n_tokens,
                                  int16_t* w, float* step, int32_t* sum) {
    constexpr int kVectors = kPageTokens / 16;
    __m512 product[kVectors], largest = _mm512_setzero_ps();
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 m = n_tokens > 16 * v ? TailMask(n_tokens - 16 * v) : 0;
      product[v] =
          _mm512_mul_ps(_mm512_maskz_loadu_ps(m, weight + 16 * v), LoadF16(scale + 16 * v));
      largest = _mm512_max_ps(largest, _mm512_abs_ps(product[v]));
    }
    const float top = _mm512_reduce_max_ps(largest);
    *step = 0;
    if (!(top >= kSmallestWeight)) {
      for (int v = 0; v < kVectors; ++v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(w + 16 * v), _mm256_setzero_si256());
      }
      return 0;
    }
    *step = top / kWeightLevels;
    const __m512 inverse = _mm512_set1_ps(kWeightLevels / top);
    __m512i total = _mm512_setzero_si512();
    uint32_t octets = 0;
    for (int v = 0; v < kVectors; ++v) {
      const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(product[v], inverse));
      const uint32_t used = _mm512_test_epi32_mask(q, q);
      octets |= ((used & 0xff) != 0 ? 1u : 0u) << (2 * v) | (used > 0xff ? 2u : 0u) << (2 * v);
      total = _mm512_add_epi32(total, q);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(w + 16 * v), _mm512_cvtsepi32_epi16(q));
    }
    *sum = _mm512_reduce_add_epi32(total);
    return octets;
  }

  template <int BITS, int G, int NB>
  static void AccumulateLanes(const IntAccumulateArgs& a, const BlockWeights& weights, int head,
                              int lane) {
    const IntPageShape& shape = *a.shape;
    __m512i acc[G][NB];
    Dot<BITS, G, NB>(shape, a.page, lane, 0, kPageTokens / shape.group, weights.groups,
                     weights.w[0], kPageTokens, acc);
    for (int i = 0; i < G; ++i) {
      const __m512 step = _mm512_set1_ps(weights.step[i]);
      const __m512i bias = _mm512_set1_epi32(weights.bias[i]);
      for (int n = 0; n < NB; ++n) {
        const int channel = 16 * (lane + n);
        float* out = a.out_GD + (head + i) * shape.head_dim + channel;
        const __mmask16 m = TailMask(shape.head_dim - channel);
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc[i][n], bias));
        _mm512_mask_storeu_ps(out, m, _mm512_fmadd_ps(sum, step, _mm512_maskz_loadu_ps(m, out)));
      }
    }
  }
};

constexpr IntKernels kSet = {Score<Avx512>, Accumulate<Avx512>, SearchScale};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const IntKernels* IntKernelsAvx512() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsAvx512() { return nullptr; }
}  // namespace phasor
#endif
