// Weight panels at the level `neon_dot`.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 1
#include "ops/matmul_neon-inl.h"

namespace phasor {

const MatMulKernels& NeonDotMatMulKernels() {
  static constexpr MatMulKernels kKernels = {kMaxTokens, FindPacked, FindFloat, Quantize};
  return kKernels;
}

}  // namespace phasor
#endif  // __aarch64__
