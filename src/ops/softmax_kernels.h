// The exponentials of a softmax, where a level has better than the portable ones. Only for this
// folder.
#pragma once

#include <cstdint>
#include <span>

#include "ops/vector_ops.h"

namespace phasor {

// As ExpSum and MaxOf (vector_ops.h).
float ExpSumAvx2(float* x, int64_t n, float max);
float ExpSumAvx512(std::span<const FloatRow> rows, float max);
float MaxOfAvx512(std::span<const FloatRow> rows, float start);

}  // namespace phasor
