// 4-bit weights with an offset: w = d * code + m.
//
// Source: GGUF tensor type Q4_1 (the ggml project).
// Layout: 20 bytes per 32 weights.
//   0   f16 d
//   2   f16 m
//   4   16 bytes: weight i in the low nibble of byte i, weight i + 16 in the high nibble
// Exactness: packing keeps codes and the 16-bit factors unchanged; w in float has two roundings at
// most.
#include "wcodec/block_util.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr int64_t kBlockBytes = 20;

void Unpack(const std::byte* row, int64_t block32, CodeBlock* out) {
  const std::byte* p = row + block32 * kBlockBytes;
  for (int i = 0; i < 16; ++i) {
    uint8_t pair = LoadU8(p + 4 + i);
    out->code[i] = pair & 15;
    out->code[i + 16] = pair >> 4;
  }
  SetUniformScale(LoadF16(p), LoadF16(p + 2), out);
}

}  // namespace

const WeightCodecInfo kQ4_1WeightCodec = {
    .dtype = DType::kQ4_1,
    .id = "q4_1",
    .summary = "4 bit, scale and offset per 32",
    .is_float = false,
    .code_bits = 4,
    .halves_differ = false,
    .bits_per_weight = 5.0,
    .scale_form = ScaleForm::kAffine,
    .decode = DecodeByUnpacking<Unpack, 0>,
    .unpack = Unpack,
};

}  // namespace phasor
