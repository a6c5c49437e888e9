// q4_0h: q4_0 after a Walsh-Hadamard rotation over the head.
//
// What: a rotation spreads outlier channels over the block, so that one large channel no longer
// coarsens its 31 neighbours. Attention rotates queries and turns its output back
// (contracts/kv_codec.h).
// Source: ggml Q4_0; rotation as in QuaRot (Ashkboos et al., 2024, 2404.00456) and llama.cpp.
// Deviations: numbers equal ggml, page layout does not (codes of 16 lanes side by side); a head
// size that is no multiple of 32 ends in a shorter block, which ggml refuses.
// Layout: int_kernels.h, 4 bits, one scale per 32 channels.
// Exactness: approximate; |error| <= max|rotated x| of the block * (1/8 + 2^-11).
// Cost: 4.5 bits per element; ns per token: kvcodec_bench.
// Limits: head size 1 to 1024. Numbers beyond +-65504 are clamped, NaN counts as 0. Queries are
// rounded to 1/32512 of their largest number; weights times scales to 8 bits without bias, which
// adds under 3 % to the squared error of the codes (int_kernels.h).
// Rejected: nothing measured yet.
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  static constexpr IntFormat kFormat = {
      .levels = &kLevelsQ4_0, .block = 32, .hadamard = true, .quantize = QuantizeQ4_0};
  return MakeIntCodec(id, kFormat, params);
}

}  // namespace

const KvCodecInfo kQ4_0hKvCodec = {
    .id = "q4_0h",
    .summary = "q4_0 after a Hadamard rotation",
    .source = "QuaRot, 2404.00456; llama.cpp, Hadamard-rotated KV cache",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 4.5,
    .nominal_bits_128 = 4.5,
    .make = Make,
};

}  // namespace phasor
