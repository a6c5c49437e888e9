// Random weights drawn directly as blocks of a stored format, without quantizing anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/rng.h"
#include "tensor/dtype.h"

namespace phasor::synth {

// Writes n elements (a multiple of the type's block size) to `out`, RowBytes(dtype, n) bytes:
// zero mean, standard deviation sigma > 0. Codes are uniform; a block's scale varies by a fifth and
// has either sign where the format allows one. The type must be one of DrawableTypes().
void DrawWeights(DType dtype, float sigma, int64_t n, Rng& rng, std::byte* out);

// {"q4_0", DType::kQ4_0}, ...: names in lower case, as flags take them.
struct DrawableType {
  const char* name;
  DType dtype;
};
const std::vector<DrawableType>& DrawableTypes();

}  // namespace phasor::synth
