// AVX2 GemmF32: tiles of 6 rows by 16 columns (12 sums in registers), masks at the right edge.
#if defined(__x86_64__)
#include <immintrin.h>

#include "ops/matmul_kernels.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

constexpr int kTileRows = 6;
constexpr int kLanes = 8;

// Sign bits set in the first n lanes, n in [0, 8].
PHASOR_INLINE __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// kRows x 16 of c. kMasked: only the lanes of mask[v] exist.
template <int kRows, bool kMasked>
void Tile(const GemmArgs& g, int i0, int j0, const __m256i (&mask)[2]) {
  __m256 sums[kRows][2];
  PHASOR_UNROLL
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
  const float* a = g.a + i0 * g.lda;
  const float* b = g.b + j0;
  for (int p = 0; p < g.k; ++p, b += g.ldb) {
    const __m256 b0 = kMasked ? _mm256_maskload_ps(b, mask[0]) : _mm256_loadu_ps(b);
    const __m256 b1 =
        kMasked ? _mm256_maskload_ps(b + kLanes, mask[1]) : _mm256_loadu_ps(b + kLanes);
    PHASOR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m256 factor = _mm256_set1_ps(a[r * g.lda + p]);
      sums[r][0] = _mm256_fmadd_ps(factor, b0, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(factor, b1, sums[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    PHASOR_UNROLL
    for (int v = 0; v < 2; ++v) {
      float* c = g.c + (i0 + r) * g.ldc + j0 + kLanes * v;
      __m256 value = sums[r][v];
      if (g.accumulate) value = _mm256_add_ps(value, _mm256_maskload_ps(c, mask[v]));
      _mm256_maskstore_ps(c, mask[v], value);
    }
  }
}

template <bool kMasked>
void Columns(const GemmArgs& g, int j0, const __m256i (&mask)[2]) {
  int i = 0;
  for (; i + kTileRows <= g.m; i += kTileRows) Tile<kTileRows, kMasked>(g, i, j0, mask);
  switch (g.m - i) {
    case 5:
      return Tile<5, kMasked>(g, i, j0, mask);
    case 4:
      return Tile<4, kMasked>(g, i, j0, mask);
    case 3:
      return Tile<3, kMasked>(g, i, j0, mask);
    case 2:
      return Tile<2, kMasked>(g, i, j0, mask);
    case 1:
      return Tile<1, kMasked>(g, i, j0, mask);
    default:
      return;
  }
}

}  // namespace

void GemmF32Avx2(const GemmArgs& g) {
  for (int j = 0; j < g.n; j += 2 * kLanes) {
    const int left = g.n - j;
    const int first = left < kLanes ? left : kLanes;
    const int second = left - first < kLanes ? left - first : kLanes;
    const __m256i mask[2] = {FirstLanes(first), FirstLanes(second)};
    if (second == kLanes) {
      Columns<false>(g, j, mask);
    } else {
      Columns<true>(g, j, mask);
    }
  }
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
