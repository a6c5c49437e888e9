// 5-bit weights with an offset: w = d * code + m.
//
// Source: GGUF tensor type Q5_1 (the ggml project).
// Layout: 24 bytes per 32 weights.
//   0   f16 d
//   2   f16 m
//   4   u32: bit i is the fifth bit of weight i
//   8   16 bytes: low four bits, weight i in the low nibble of byte i, i + 16 in the high nibble
// Exactness: packing keeps codes and the 16-bit factors unchanged; w in float has two roundings at
// most.
#include "wcodec/block_util.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr int64_t kBlockBytes = 24;

void Unpack(const std::byte* row, int64_t block32, CodeBlock* out) {
  const std::byte* p = row + block32 * kBlockBytes;
  uint32_t high = LoadU32(p + 4);
  for (int i = 0; i < 16; ++i) {
    uint8_t pair = LoadU8(p + 8 + i);
    out->code[i] = static_cast<uint8_t>((pair & 15) | ((high >> i & 1) << 4));
    out->code[i + 16] = static_cast<uint8_t>((pair >> 4) | ((high >> (i + 16) & 1) << 4));
  }
  SetUniformScale(LoadF16(p), LoadF16(p + 2), out);
}

}  // namespace

const WeightCodecInfo kQ5_1WeightCodec = {
    .dtype = DType::kQ5_1,
    .id = "q5_1",
    .summary = "5 bit, scale and offset per 32",
    .is_float = false,
    .code_bits = 5,
    .halves_differ = false,
    .bits_per_weight = 6.0,
    .scale_form = ScaleForm::kAffine,
    .decode = DecodeByUnpacking<Unpack, 0>,
    .unpack = Unpack,
};

}  // namespace phasor
