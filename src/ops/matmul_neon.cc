// Weight panels at the level `neon`.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0
#include "ops/matmul_neon-inl.h"

namespace phasor {

const MatMulKernels& NeonMatMulKernels() {
  static constexpr MatMulKernels kKernels = {kMaxTokens, FindPacked, FindFloat, Quantize};
  return kKernels;
}

}  // namespace phasor
#endif  // __aarch64__
