// What simd/lanes-inl.h needs in front of the regions that include it.
#pragma once

#include <cstdint>

#include "simd/target.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Emulated, vectors of 16 floats are no registers, and g++ notes that they are passed in memory.
#if defined(PHASOR_EMULATE_AVX512) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
