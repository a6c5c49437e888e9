// Integer pages at the level `neon`.
#include "kvcodec/int_kernels.h"

#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0
#include "kvcodec/int_kernels_neon-inl.h"

namespace phasor {
namespace {
constexpr IntKernels kSet = {ScoreNeon, AccumulateNeon, DecodeIntNeon, SearchIntNeon};
}
const IntKernels* IntKernelsNeon() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsNeon() { return nullptr; }
}  // namespace phasor
#endif
