// q4_head: 4-bit codes with one scale per head row, after a Hadamard rotation; the default for
// values.
//
// What: rotated numbers are close to Gaussian, so one scale serves the row. The scale has a sign:
// grid d * (-8 .. 7), d of either sign among 8 magnitudes around max|x| / 8, the least squared
// error wins.
// Source: phasor's own; rotation as in QuaRot (2404.00456), scale search as common for weight
// formats.
// Deviations: none, no published form.
// Layout: int_kernels.h, 4 bits, one scale per row.
// Exactness: approximate; mean squared error on Gaussian rows at D = 64 / 128 at most 0.0086 /
// 0.0098 of the variance (int_codec_test).
// Cost: 4 + 16/D bits per element; ns per token: kvcodec_bench.
// Limits: head size 1 to 1024. Numbers beyond +-65504 are clamped, NaN counts as 0. Queries, and
// weights times scales, are rounded to 15 bits and a sign relative to the largest of the head (of
// the page and block): an error of at most 1/65534 of that maximum per term, against code errors
// of 1/16 of a row's range; a token whose weight rounds to 0 is skipped under the same bound.
// Rejected: on Gaussian rows of 64 (128) the symmetric grid +-0.5 .. +-7.5 with a searched scale
// has error 0.0088 (0.0100), with max|x| / 7.5 0.0101 (0.0120), against 0.0082 (0.0094) here; 24
// magnitudes instead of 8 gain 1 %.
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  static constexpr IntFormat kFormat = {
      .bits = 4, .block = 0, .hadamard = true, .quantize = QuantizeSearched4};
  return MakeIntCodec(id, kFormat, params);
}

}  // namespace

const KvCodecInfo kQ4HeadKvCodec = {
    .id = "q4_head",
    .summary = "4-bit codes, one searched scale per row, Hadamard rotation; default for values",
    .source = "phasor; rotation QuaRot, 2404.00456",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 4.25,
    .nominal_bits_128 = 4.125,
    .make = Make,
};

}  // namespace phasor
