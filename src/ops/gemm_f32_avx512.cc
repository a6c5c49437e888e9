// AVX-512 GemmF32: tiles of 6 rows by 64 columns (24 sums in registers; per step of k four loads of
// b and six broadcasts of a feed 24 multiply-adds), narrower tiles and masks at the edges.
#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12 takes the undefined operand inside its own intrinsics for an error of ours (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "ops/matmul_kernels.h"
#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

constexpr int kTileRows = 6;
constexpr int kLanes = 16;

// kRows x (16 * kVectors) of c, the last vector under `mask`.
template <int kRows, int kVectors>
void Tile(const GemmArgs& g, int i0, int j0, __mmask16 mask) {
  __m512 sums[kRows][kVectors];
  PHASOR_UNROLL
  for (int r = 0; r < kRows; ++r) {
    PHASOR_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  const float* a = g.a + i0 * g.lda;
  const float* b = g.b + j0;
  for (int p = 0; p < g.k; ++p, b += g.ldb) {
    __m512 columns[kVectors];
    PHASOR_UNROLL
    for (int v = 0; v + 1 < kVectors; ++v) columns[v] = _mm512_loadu_ps(b + kLanes * v);
    columns[kVectors - 1] = _mm512_maskz_loadu_ps(mask, b + kLanes * (kVectors - 1));
    PHASOR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m512 factor = _mm512_set1_ps(a[r * g.lda + p]);
      PHASOR_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = _mm512_fmadd_ps(factor, columns[v], sums[r][v]);
      }
    }
  }
  PHASOR_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float* c = g.c + (i0 + r) * g.ldc + j0;
    PHASOR_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 lanes = v + 1 < kVectors ? static_cast<__mmask16>(0xffff) : mask;
      __m512 value = sums[r][v];
      if (g.accumulate) {
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(lanes, c + kLanes * v));
      }
      _mm512_mask_storeu_ps(c + kLanes * v, lanes, value);
    }
  }
}

template <int kVectors>
void Columns(const GemmArgs& g, int j0, __mmask16 mask) {
  int i = 0;
  for (; i + kTileRows <= g.m; i += kTileRows) Tile<kTileRows, kVectors>(g, i, j0, mask);
  switch (g.m - i) {
    case 5:
      return Tile<5, kVectors>(g, i, j0, mask);
    case 4:
      return Tile<4, kVectors>(g, i, j0, mask);
    case 3:
      return Tile<3, kVectors>(g, i, j0, mask);
    case 2:
      return Tile<2, kVectors>(g, i, j0, mask);
    case 1:
      return Tile<1, kVectors>(g, i, j0, mask);
    default:
      return;
  }
}

}  // namespace

void GemmF32Avx512(const GemmArgs& g) {
  for (int j = 0; j < g.n; j += 4 * kLanes) {
    const int left = g.n - j < 4 * kLanes ? g.n - j : 4 * kLanes;
    const int vectors = (left + kLanes - 1) / kLanes;
    const __mmask16 mask = static_cast<__mmask16>(0xffffu >> (vectors * kLanes - left));
    switch (vectors) {
      case 4:
        Columns<4>(g, j, mask);
        break;
      case 3:
        Columns<3>(g, j, mask);
        break;
      case 2:
        Columns<2>(g, j, mask);
        break;
      default:
        Columns<1>(g, j, mask);
        break;
    }
  }
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
