// 4-bit weights, symmetric: w = d * (code - 8).
//
// Source: GGUF tensor type Q4_0 (the ggml project).
// Layout: 18 bytes per 32 weights.
//   0   f16 d
//   2   16 bytes: weight i in the low nibble of byte i, weight i + 16 in the high nibble
// Exactness: packing keeps codes and the 16-bit factors unchanged; w in float has one rounding at
// most.
#include "wcodec/block_util.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr int64_t kBlockBytes = 18;

void Unpack(const std::byte* row, int64_t block32, CodeBlock* out) {
  const std::byte* p = row + block32 * kBlockBytes;
  float d = LoadF16(p);
  for (int i = 0; i < 16; ++i) {
    uint8_t pair = LoadU8(p + 2 + i);
    out->code[i] = pair & 15;
    out->code[i + 16] = pair >> 4;
  }
  SetUniformScale(d, -8.0f * d, out);
}

}  // namespace

const WeightCodecInfo kQ4_0WeightCodec = {
    .dtype = DType::kQ4_0,
    .id = "q4_0",
    .summary = "4 bit, scale per 32",
    .is_float = false,
    .code_bits = 4,
    .halves_differ = false,
    .bits_per_weight = 4.5,
    .scale_form = ScaleForm::kSymmetric,
    .decode = DecodeByUnpacking<Unpack, 8>,
    .unpack = Unpack,
};

}  // namespace phasor
