// Integer pages at the level `neon_dot`.
#include "kvcodec/int_kernels.h"

#if defined(__aarch64__)
#define PHASOR_NEON_DOT 1
#include "kvcodec/int_kernels_neon-inl.h"

namespace phasor {
namespace {
constexpr IntKernels kSet = {ScoreNeon, AccumulateNeon, DecodeIntNeon, SearchIntNeon};
}
const IntKernels* IntKernelsNeonDot() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsNeonDot() { return nullptr; }
}  // namespace phasor
#endif
