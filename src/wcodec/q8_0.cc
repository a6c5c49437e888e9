// 8-bit weights, symmetric: w = d * q, q signed; here code = q + 128.
//
// Source: GGUF tensor type Q8_0 (the ggml project).
// Layout: 34 bytes per 32 weights.
//   0   f16 d
//   2   32 signed bytes q
// Exactness: packing keeps codes and the 16-bit factors unchanged; w in float has one rounding at
// most.
#include "wcodec/block_util.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr int64_t kBlockBytes = 34;

void Unpack(const std::byte* row, int64_t block32, CodeBlock* out) {
  const std::byte* p = row + block32 * kBlockBytes;
  float d = LoadF16(p);
  // Flipping the sign bit of a two's complement byte adds 128.
  for (int i = 0; i < kCodeBlock; ++i) out->code[i] = LoadU8(p + 2 + i) ^ 0x80;
  SetUniformScale(d, -128.0f * d, out);
}

}  // namespace

const WeightCodecInfo kQ8_0WeightCodec = {
    .dtype = DType::kQ8_0,
    .id = "q8_0",
    .summary = "8 bit, scale per 32",
    .is_float = false,
    .code_bits = 8,
    .halves_differ = false,
    .bits_per_weight = 8.5,
    .scale_form = ScaleForm::kSymmetric,
    .decode = DecodeByUnpacking<Unpack, 128>,
    .unpack = Unpack,
};

}  // namespace phasor
