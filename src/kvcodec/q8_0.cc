// q8_0: 8-bit codes in blocks of 32 channels, as ggml stores them.
//
// What: code = round(x / d), d = max|x| / 127 rounded to f16.
// Source: ggml (llama.cpp), block format Q8_0; written from its definition.
// Deviations: numbers equal ggml, page layout does not (codes of 16 lanes side by side); a head
// size that is no multiple of 32 ends in a shorter block, which ggml refuses.
// Layout: int_kernels.h, 8 bits, one scale per 32 channels.
// Exactness: approximate; |error| <= max|x| of the block * (1/254 + 2^-11).
// Cost: 8.5 bits per element; ns per token: kvcodec_bench.
// Limits: head size 1 to 1024. Numbers beyond +-65504 are clamped, NaN counts as 0. Queries are
// rounded to 1/32512 of their largest number, weights times scales to 1/65534 of the largest of
// the page and block, against code errors of 1/254 of a row's range.
// Rejected: 8-bit queries: their error would equal that of the codes.
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  static constexpr IntFormat kFormat = {
      .levels = &kLevels8, .block = 32, .hadamard = false, .quantize = QuantizeQ8_0};
  return MakeIntCodec(id, kFormat, params);
}

}  // namespace

const KvCodecInfo kQ8_0KvCodec = {
    .id = "q8_0",
    .summary = "8-bit codes, 32 channels per scale, as ggml",
    .source = "ggml (llama.cpp)",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 8.5,
    .nominal_bits_128 = 8.5,
    .make = Make,
};

}  // namespace phasor
