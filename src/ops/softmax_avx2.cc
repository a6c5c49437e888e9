// The exponentials of a softmax with AVX2: four vectors step by step, so that their latencies
// overlap, and rounding by a number so large that only integers are left beside it, which spares
// both conversions.
#if defined(__x86_64__)
#include <immintrin.h>

#include "ops/softmax_kernels.h"
#include "simd/target.h"

#if defined(__clang__)
#define PHASOR_UNROLL _Pragma("unroll")
#else
#define PHASOR_UNROLL _Pragma("GCC unroll 16")
#endif

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kRounder = 0x1.8p23f;  // beside it the last bit counts 1

// x[i] = e^(x[i] - max) for x[i] <= max: relative error below 2e-6 down to -16, 1e-5 below; e^-86
// stands for everything smaller.
template <int kVectors>
inline __attribute__((always_inline)) void ExpOfNegative(__m256 max, __m256 (&x)[kVectors]) {
  const __m256 log2e = _mm256_set1_ps(kLog2E), rounder = _mm256_set1_ps(kRounder);
  __m256 t[kVectors], p[kVectors];
  PHASOR_UNROLL for (int i = 0; i < kVectors; ++i) {
    x[i] = _mm256_max_ps(_mm256_sub_ps(x[i], max), _mm256_set1_ps(-86.0f));
  }
  PHASOR_UNROLL for (int i = 0; i < kVectors; ++i) t[i] = _mm256_fmadd_ps(x[i], log2e, rounder);
  PHASOR_UNROLL for (int i = 0; i < kVectors; ++i) {
    x[i] = _mm256_fmsub_ps(x[i], log2e, _mm256_sub_ps(t[i], rounder));
  }
  // 2^r on [-1/2, 1/2], within 2e-7.
  PHASOR_UNROLL for (int i = 0; i < kVectors; ++i) {
    p[i] = _mm256_fmadd_ps(x[i], _mm256_set1_ps(1.34004e-3f), _mm256_set1_ps(9.67604e-3f));
  }
  constexpr float kRest[4] = {5.550327e-2f, 2.4022107e-1f, 6.9314721e-1f, 1.0000001f};
  PHASOR_UNROLL for (const float c : kRest) {
    PHASOR_UNROLL for (int i = 0; i < kVectors; ++i) {
      p[i] = _mm256_fmadd_ps(p[i], x[i], _mm256_set1_ps(c));
    }
  }
  PHASOR_UNROLL for (int i = 0; i < kVectors; ++i) {
    const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(t[i]), 23);
    x[i] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p[i]), power));
  }
}

}  // namespace

float ExpSumAvx2(float* x, int64_t n, float max) {
  const __m256 shift = _mm256_set1_ps(max);
  __m256 sum[4];
  PHASOR_UNROLL for (__m256& s : sum) s = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256 v[4];
    PHASOR_UNROLL for (int k = 0; k < 4; ++k) v[k] = _mm256_loadu_ps(x + i + 8 * k);
    ExpOfNegative(shift, v);
    PHASOR_UNROLL for (int k = 0; k < 4; ++k) {
      _mm256_storeu_ps(x + i + 8 * k, v[k]);
      sum[k] = _mm256_add_ps(sum[k], v[k]);
    }
  }
  for (; i < n; i += 8) {
    const int left = static_cast<int>(n - i < 8 ? n - i : 8);
    const __m256i some =
        _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256 v[1] = {_mm256_maskload_ps(x + i, some)};
    ExpOfNegative(shift, v);
    _mm256_maskstore_ps(x + i, some, v[0]);
    sum[0] = _mm256_add_ps(sum[0], _mm256_and_ps(v[0], _mm256_castsi256_ps(some)));
  }
  const __m256 all = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

}  // namespace phasor
PHASOR_END_TARGET
#endif
