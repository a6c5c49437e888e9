// The AVX-512 intrinsics. Kernel files include this and not <immintrin.h>, so that a build with the
// CMake option PHASOR_EMULATE_AVX512 can put plain C++ in their place and test the kernels on a CPU
// without AVX-512 (`make avx512`). In every other build this is <immintrin.h> and nothing else.
#pragma once

#include <immintrin.h>

#if defined(PHASOR_EMULATE_AVX512)
#include "simd/avx512_emulation.h"
#endif
