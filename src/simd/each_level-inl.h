// Includes PHASOR_LEVEL_FILE once per CPU level, in the namespaces plain, avx2 and avx512, behind
// simd/lanes-inl.h with as many lanes as the level has. No include guard; to be included outside
// every namespace, behind simd/lanes.h:
//   #define PHASOR_LEVEL_FILE "kvcodec/hadamard-inl.h"
//   #include "simd/each_level-inl.h"
// 64-bit ARM has the first one only, where vectors of four floats are its registers.

namespace phasor {
namespace plain {
namespace {
#define PHASOR_LANES 4
#include "simd/lanes-inl.h"

#include PHASOR_LEVEL_FILE
}  // namespace
}  // namespace plain
}  // namespace phasor

#if defined(__x86_64__)
PHASOR_BEGIN_AVX2
namespace phasor {
namespace avx2 {
namespace {
#define PHASOR_LANES 8
#include "simd/lanes-inl.h"

#include PHASOR_LEVEL_FILE
}  // namespace
}  // namespace avx2
}  // namespace phasor
PHASOR_END_TARGET

PHASOR_BEGIN_AVX512
namespace phasor {
namespace avx512 {
namespace {
#define PHASOR_LANES 16
#include "simd/lanes-inl.h"

#include PHASOR_LEVEL_FILE
}  // namespace
}  // namespace avx512
}  // namespace phasor
PHASOR_END_TARGET
#endif

#undef PHASOR_LEVEL_FILE
