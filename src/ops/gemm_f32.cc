// GemmF32: scalar form and choice of level. Attention uses it for tiles of a few hundred rows that
// fit in cache, so there is no packing and no blocking beyond registers.
#include "ops/matmul.h"
#include "ops/matmul_kernels.h"
#include "simd/cpu.h"

namespace phasor {
namespace {

void GemmF32Scalar(const GemmArgs& g) {
  for (int i = 0; i < g.m; ++i) {
    float* c = g.c + i * g.ldc;
    if (!g.accumulate) {
      for (int j = 0; j < g.n; ++j) c[j] = 0;
    }
    for (int p = 0; p < g.k; ++p) {
      const float a = g.a[i * g.lda + p];
      const float* b = g.b + p * g.ldb;
      for (int j = 0; j < g.n; ++j) c[j] += a * b[j];
    }
  }
}

}  // namespace

void GemmF32(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int m,
             int n, int k, bool accumulate) {
  const GemmArgs args = {a, lda, b, ldb, c, ldc, m, n, k, accumulate};
#if defined(__x86_64__)
  if (IsAvx512(ActiveCpuLevel())) return GemmF32Avx512(args);
  if (ActiveCpuLevel() == CpuLevel::kAvx2) return GemmF32Avx2(args);
#elif defined(__aarch64__)
  if (ActiveCpuLevel() != CpuLevel::kScalar) return GemmF32Neon(args);
#endif
  GemmF32Scalar(args);
}

}  // namespace phasor
