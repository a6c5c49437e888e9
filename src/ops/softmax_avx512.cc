// The exponentials of a softmax with AVX-512: half the steps of the portable ones, because scalef
// multiplies by a power of two and lets everything small underflow to 0.
#if defined(__x86_64__)

#include "ops/softmax_kernels.h"
#include "simd/avx512.h"
#include "simd/target.h"

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns about its own _mm512_undefined_* (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

constexpr float kLog2E = 1.44269504f;

// 2^(x log2(e) + bias), bias = -max log2(e); relative error below 5e-6 for |x| up to a hundred.
inline __attribute__((always_inline)) __m512 Exp(__m512 x, __m512 bias) {
  const __m512 y = _mm512_fmadd_ps(x, _mm512_set1_ps(kLog2E), bias);
  const __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(y, n);
  // 2^r on [-1/2, 1/2], within 4e-6.
  __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(9.67604e-3f), _mm512_set1_ps(5.592204e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022107e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9312103e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// Lanes of what is left of a row.
inline __attribute__((always_inline)) __mmask16 FirstOf(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1);
}

}  // namespace

// Sums and maxima are taken across lanes once for all rows: that costs as much as two vectors.
float ExpSumAvx512(std::span<const FloatRow> rows, float max) {
  const __m512 bias = _mm512_set1_ps(-max * kLog2E);
  __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
  for (const auto& [x, n] : rows) {
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
      const __m512 a = Exp(_mm512_loadu_ps(x + i), bias);
      const __m512 b = Exp(_mm512_loadu_ps(x + i + 16), bias);
      const __m512 c = Exp(_mm512_loadu_ps(x + i + 32), bias);
      const __m512 d = Exp(_mm512_loadu_ps(x + i + 48), bias);
      _mm512_storeu_ps(x + i, a);
      _mm512_storeu_ps(x + i + 16, b);
      _mm512_storeu_ps(x + i + 32, c);
      _mm512_storeu_ps(x + i + 48, d);
      s0 = _mm512_add_ps(s0, a);
      s1 = _mm512_add_ps(s1, b);
      s2 = _mm512_add_ps(s2, c);
      s3 = _mm512_add_ps(s3, d);
    }
    for (; i < n; i += 16) {
      const __mmask16 some = FirstOf(n - i);
      const __m512 a = _mm512_maskz_mov_ps(some, Exp(_mm512_maskz_loadu_ps(some, x + i), bias));
      _mm512_mask_storeu_ps(x + i, some, a);
      s0 = _mm512_add_ps(s0, a);
    }
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)));
}

float MaxOfAvx512(std::span<const FloatRow> rows, float start) {
  __m512 m0 = _mm512_set1_ps(start), m1 = m0, m2 = m0, m3 = m0;
  for (const auto& [x, n] : rows) {
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
      m0 = _mm512_max_ps(m0, _mm512_loadu_ps(x + i));
      m1 = _mm512_max_ps(m1, _mm512_loadu_ps(x + i + 16));
      m2 = _mm512_max_ps(m2, _mm512_loadu_ps(x + i + 32));
      m3 = _mm512_max_ps(m3, _mm512_loadu_ps(x + i + 48));
    }
    for (; i < n; i += 16) {
      const __mmask16 some = FirstOf(n - i);
      m0 = _mm512_mask_max_ps(m0, some, m0, _mm512_maskz_loadu_ps(some, x + i));
    }
  }
  return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(m0, m1), _mm512_max_ps(m2, m3)));
}

}  // namespace phasor
PHASOR_END_TARGET
#endif
