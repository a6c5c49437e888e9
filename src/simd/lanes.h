// What simd/lanes-inl.h needs in front of the regions that include it.
#pragma once

#include <cstdint>

#include "simd/target.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
