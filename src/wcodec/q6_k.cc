// 6-bit weights in super-blocks: w = (d * scale) * (code - 32), signed scale per 16 weights.
//
// Source: GGUF tensor type Q6_K (the ggml project).
// Layout: 210 bytes per 256 weights, as two runs of 128; within run r, weight 32 j + i:
//   0    128 bytes: low four bits in byte 64 r + 32 (j % 2) + i, high nibble where j >= 2
//   128  64 bytes: upper two bits in byte 32 r + i, bits 2j and 2j + 1
//   192  16 signed bytes: scale of weights 16 s ... 16 s + 15
//   208  f16 d
// Exactness: d * scale is exact in float (11 + 7 bits of mantissa) and packing keeps d and scale
// apart.
#include "wcodec/block_util.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr int64_t kSuperBytes = 210;

void Unpack(const std::byte* row, int64_t block32, CodeBlock* out) {
  const std::byte* p = row + block32 / 8 * kSuperBytes;
  int in_super = static_cast<int>(block32 % 8), run = in_super / 4, j = in_super % 4;
  const std::byte* low = p + 64 * run + 32 * (j % 2);
  const std::byte* high = p + 128 + 32 * run;
  for (int i = 0; i < kCodeBlock; ++i) {
    int low4 = LoadU8(low + i) >> (j / 2 * 4) & 15;
    int high2 = LoadU8(high + i) >> (2 * j) & 3;
    out->code[i] = static_cast<uint8_t>(low4 | high2 << 4);
  }
  out->super_scale = LoadF16(p + 208);
  out->super_offset = 0;
  for (int half = 0; half < 2; ++half) {
    out->sub_scale[half] = static_cast<int8_t>(LoadU8(p + 192 + 2 * in_super + half));
    out->sub_offset[half] = 0;
    out->scale[half] = out->super_scale * static_cast<float>(out->sub_scale[half]);
    out->offset[half] = -32.0f * out->scale[half];
  }
}

}  // namespace

const WeightCodecInfo kQ6_KWeightCodec = {
    .dtype = DType::kQ6_K,
    .id = "q6_k",
    .summary = "6 bit, 8-bit scale per 16, f16 per 256",
    .is_float = false,
    .code_bits = 6,
    .halves_differ = true,
    .bits_per_weight = 6.5625,
    .scale_form = ScaleForm::kSuperHalves,
    .decode = DecodeByUnpacking<Unpack, 32>,
    .unpack = Unpack,
};

}  // namespace phasor
