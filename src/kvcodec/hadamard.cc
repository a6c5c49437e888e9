#include "kvcodec/hadamard.h"

#include <cmath>

#include "simd/cpu.h"
#include "simd/lanes.h"

#define PHASOR_LEVEL_FILE "kvcodec/hadamard-inl.h"
#include "simd/each_level-inl.h"

namespace phasor {
namespace {

// Blocks too short for vectors.
void TransformShort(float* x, int n, float norm) {
  for (int h = 1; h < n; h *= 2) {
    for (int base = 0; base < n; base += 2 * h) {
      for (int i = base; i < base + h; ++i) {
        const float a = x[i], b = x[i + h];
        x[i] = a + b;
        x[i + h] = a - b;
      }
    }
  }
  for (int i = 0; i < n; ++i) x[i] *= norm;
}

using BlockFunction = void (*)(float* x, int n, float norm);

BlockFunction ChooseFunction(int block) {
  if (block < 16) return TransformShort;
#if defined(__x86_64__)
  if (IsAvx512(ActiveCpuLevel())) return avx512::TransformBlock;
  if (ActiveCpuLevel() == CpuLevel::kAvx2) return avx2::TransformBlock;
#endif
  return plain::TransformBlock;
}

}  // namespace

int HadamardBlock(int head_dim) { return head_dim & -head_dim; }

void HadamardRows(float* x_ND, int n_rows, int head_dim) {
  const int block = HadamardBlock(head_dim);
  if (block == 1) return;
  const BlockFunction transform = ChooseFunction(block);
  const float norm = 1.0f / std::sqrt(static_cast<float>(block));
  const long n_floats = static_cast<long>(n_rows) * head_dim;
  for (long i = 0; i < n_floats; i += block) transform(x_ND + i, block, norm);
}

}  // namespace phasor
