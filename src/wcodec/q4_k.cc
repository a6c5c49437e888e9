// 4-bit weights in super-blocks: w = (d * scale) * code - (dmin * offset), per 32 weights.
//
// Source: GGUF tensor type Q4_K (the ggml project).
// Layout: 144 bytes per 256 weights.
//   0   f16 d
//   2   f16 dmin
//   4   12 bytes: eight 6-bit scales and eight 6-bit offsets (UnpackSixBitPair)
//   16  128 bytes: byte 32 g + i holds weight i of sub-block 2g (low nibble) and of 2g + 1 (high)
// Exactness: the factors d * scale and dmin * offset are exact in float (11 + 6 bits of mantissa)
// and packing
//   keeps them apart, so nothing is rounded before the product with the codes.
#include "wcodec/block_util.h"
#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr int64_t kSuperBytes = 144;

void Unpack(const std::byte* row, int64_t block32, CodeBlock* out) {
  const std::byte* p = row + block32 / 8 * kSuperBytes;
  int j = static_cast<int>(block32 % 8);
  SetSuperAffineScale(p, j, out);
  const std::byte* nibbles = p + 16 + j / 2 * 32;
  int shift = j % 2 * 4;
  for (int i = 0; i < kCodeBlock; ++i) out->code[i] = LoadU8(nibbles + i) >> shift & 15;
}

}  // namespace

const WeightCodecInfo kQ4_KWeightCodec = {
    .dtype = DType::kQ4_K,
    .id = "q4_k",
    .summary = "4 bit, 6-bit scale and offset per 32, f16 pair per 256",
    .is_float = false,
    .code_bits = 4,
    .halves_differ = false,
    .bits_per_weight = 4.5,
    .scale_form = ScaleForm::kSuperAffine,
    .decode = DecodeByUnpacking<Unpack, 0>,
    .unpack = Unpack,
};

}  // namespace phasor
