// 16-bit float weights.
//
// Source: GGUF tensor type F16; IEEE 754.
// Layout: 2 bytes per weight, little-endian binary16.
// Exactness: decoding is exact; kernels multiply in float.
#include <cstring>

#include "tensor/half.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

void Decode(const std::byte* blocks, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, blocks + 2 * i, sizeof(bits));
    out[i] = F16ToF32(bits);
  }
}

}  // namespace

const WeightCodecInfo kF16WeightCodec = {
    .dtype = DType::kF16,
    .id = "f16",
    .summary = "16-bit float",
    .is_float = true,
    .code_bits = 0,
    .halves_differ = false,
    .bits_per_weight = 16.0,
    .scale_form = ScaleForm::kNone,
    .decode = Decode,
    .unpack = nullptr,
};

}  // namespace phasor
