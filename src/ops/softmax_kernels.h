// The exponentials of a softmax, where a level has better than the portable ones. Only for this
// folder.
#pragma once

#include <cstdint>

namespace phasor {

// As ExpSum (vector_ops.h).
float ExpSumAvx2(float* x, int64_t n, float max);
float ExpSumAvx512(float* x, int64_t n, float max);

}  // namespace phasor
