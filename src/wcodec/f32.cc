// 32-bit float weights.
//
// Source: GGUF tensor type F32; IEEE 754.
// Layout: 4 bytes per weight, little-endian binary32.
// Exactness: decoding is exact; kernels multiply in float.
#include <cstring>

#include "wcodec/wcodec.h"

namespace phasor {
namespace {

void Decode(const std::byte* blocks, int64_t n, float* out) {
  std::memcpy(out, blocks, static_cast<std::size_t>(n) * sizeof(float));
}

}  // namespace

const WeightCodecInfo kF32WeightCodec = {
    .dtype = DType::kF32,
    .id = "f32",
    .summary = "32-bit float",
    .is_float = true,
    .code_bits = 0,
    .halves_differ = false,
    .bits_per_weight = 32.0,
    .scale_form = ScaleForm::kNone,
    .decode = Decode,
    .unpack = nullptr,
};

}  // namespace phasor
