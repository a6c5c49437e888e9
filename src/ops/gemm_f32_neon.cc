// NEON GemmF32: tiles of 6 rows by 16 columns (24 sums in registers). Columns beyond the last whole
// 16 go through tiles of 4 and single ones.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0
#include "ops/matmul_kernels.h"
#include "simd/neon-inl.h"

namespace phasor {
namespace {

constexpr int kTileRows = 6;

// kRows x 4 kVectors of c.
template <int kRows, int kVectors>
void Tile(const GemmArgs& g, int i0, int j0) {
  float32x4_t sums[kRows][kVectors];
  PHASOR_UNROLL
  for (int i = 0; i < kRows * kVectors; ++i) sums[i / kVectors][i % kVectors] = vdupq_n_f32(0);
  const float* a = g.a + i0 * g.lda;
  const float* b = g.b + j0;
  for (int p = 0; p < g.k; ++p, b += g.ldb) {
    float32x4_t columns[kVectors];
    PHASOR_UNROLL
    for (int v = 0; v < kVectors; ++v) columns[v] = vld1q_f32(b + 4 * v);
    PHASOR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float factor = a[r * g.lda + p];
      PHASOR_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[r][v] = vfmaq_n_f32(sums[r][v], columns[v], factor);
    }
  }
  PHASOR_UNROLL
  for (int i = 0; i < kRows * kVectors; ++i) {
    const int r = i / kVectors, v = i % kVectors;
    float* c = g.c + (i0 + r) * g.ldc + j0 + 4 * v;
    vst1q_f32(c, g.accumulate ? vaddq_f32(sums[r][v], vld1q_f32(c)) : sums[r][v]);
  }
}

// All rows of 4 kVectors columns.
template <int kVectors>
void Columns(const GemmArgs& g, int j0) {
  int i = 0;
  for (; i + kTileRows <= g.m; i += kTileRows) Tile<kTileRows, kVectors>(g, i, j0);
  switch (g.m - i) {
    case 5:
      return Tile<5, kVectors>(g, i, j0);
    case 4:
      return Tile<4, kVectors>(g, i, j0);
    case 3:
      return Tile<3, kVectors>(g, i, j0);
    case 2:
      return Tile<2, kVectors>(g, i, j0);
    case 1:
      return Tile<1, kVectors>(g, i, j0);
    default:
      return;
  }
}

void OneColumn(const GemmArgs& g, int j) {
  for (int i = 0; i < g.m; ++i) {
    float sum = 0;
    for (int p = 0; p < g.k; ++p) sum += g.a[i * g.lda + p] * g.b[p * g.ldb + j];
    float* c = g.c + i * g.ldc + j;
    *c = g.accumulate ? *c + sum : sum;
  }
}

}  // namespace

void GemmF32Neon(const GemmArgs& g) {
  int j = 0;
  for (; j + 16 <= g.n; j += 16) Columns<4>(g, j);
  for (; j + 4 <= g.n; j += 4) Columns<1>(g, j);
  for (; j < g.n; ++j) OneColumn(g, j);
}

}  // namespace phasor
#endif  // __aarch64__
