// 5-bit weights, symmetric: w = d * (code - 16).
//
// Source: GGUF tensor type Q5_0 (the ggml project).
// Layout: 22 bytes per 32 weights.
//   0   f16 d
//   2   u32: bit i is the fifth bit of weight i
//   6   16 bytes: low four bits, weight i in the low nibble of byte i, i + 16 in the high nibble
// Exactness: packing keeps codes and the 16-bit factors unchanged; w in float has one rounding at
// most.
#include "wcodec/block_util.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr int64_t kBlockBytes = 22;

void Unpack(const std::byte* row, int64_t block32, CodeBlock* out) {
  const std::byte* p = row + block32 * kBlockBytes;
  float d = LoadF16(p);
  uint32_t high = LoadU32(p + 2);
  for (int i = 0; i < 16; ++i) {
    uint8_t pair = LoadU8(p + 6 + i);
    out->code[i] = static_cast<uint8_t>((pair & 15) | ((high >> i & 1) << 4));
    out->code[i + 16] = static_cast<uint8_t>((pair >> 4) | ((high >> (i + 16) & 1) << 4));
  }
  SetUniformScale(d, -16.0f * d, out);
}

}  // namespace

const WeightCodecInfo kQ5_0WeightCodec = {
    .dtype = DType::kQ5_0,
    .id = "q5_0",
    .summary = "5 bit, scale per 32",
    .is_float = false,
    .code_bits = 5,
    .halves_differ = false,
    .bits_per_weight = 5.5,
    .scale_form = ScaleForm::kSymmetric,
    .decode = DecodeByUnpacking<Unpack, 16>,
    .unpack = Unpack,
};

}  // namespace phasor
