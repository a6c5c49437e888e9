// q4_0: 4-bit codes in blocks of 32 channels, as ggml stores them.
//
// What: d = (number of largest magnitude) / -8 rounded to f16, code = min(15, trunc(x / d +
// 8.5)).
// Source: ggml (llama.cpp), block format Q4_0; written from its definition.
// Deviations: numbers equal ggml, page layout does not (codes of 16 lanes side by side); a head
// size that is no multiple of 32 ends in a shorter block, which ggml refuses.
// Layout: int_kernels.h, 4 bits, one scale per 32 channels.
// Exactness: approximate; |error| <= max|x| of the block * (1/8 + 2^-11); 1/16 but for the end of
// the range opposite the extreme number.
// Cost: 4.5 bits per element; ns per token: kvcodec_bench.
// Limits: head size 1 to 1024. Numbers beyond +-65504 are clamped, NaN counts as 0. Queries are
// rounded to 1/32512 of their largest number; weights times scales to 8 bits without bias, which
// adds under 3 % to the squared error of the codes (int_kernels.h).
// Rejected: a scale search: better, but then the numbers are not ggml's; q4_head has it.
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  static constexpr IntFormat kFormat = {
      .levels = &kLevelsQ4_0, .block = 32, .hadamard = false, .quantize = QuantizeQ4_0};
  return MakeIntCodec(id, kFormat, params);
}

}  // namespace

const KvCodecInfo kQ4_0KvCodec = {
    .id = "q4_0",
    .summary = "4-bit codes, 32 channels per scale, as ggml",
    .source = "ggml (llama.cpp)",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 4.5,
    .nominal_bits_128 = 4.5,
    .make = Make,
};

}  // namespace phasor
