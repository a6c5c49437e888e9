// q3_head: 3-bit codes with one scale per head row, after a Hadamard rotation.
//
// What: as q4_head with grid d * (-4 .. 3); codes are packed as 2 + 1 bits, with no bit unused.
// Source: phasor's own; rotation as in QuaRot (2404.00456), scale search as common for weight
// formats.
// Deviations: none, no published form.
// Layout: int_kernels.h, 3 bits, one scale per row.
// Exactness: approximate; mean squared error on Gaussian rows at D = 64 / 128 at most 0.033 /
// 0.0365 of the variance (int_codec_test).
// Cost: 3 + 16/D bits per element; ns per token: kvcodec_bench.
// Limits: head size 1 to 1024. Numbers beyond +-65504 are clamped, NaN counts as 0. Queries, and
// weights times scales, are rounded to 15 bits and a sign relative to the largest of the head (of
// the page and block): an error of at most 1/65534 of that maximum per term, against code errors
// of 1/8 of a row's range; a token whose weight rounds to 0 is skipped under the same bound.
// Rejected: on Gaussian rows of 64 (128) the symmetric grid +-0.5 .. +-3.5 with a searched scale
// has error 0.0333 (0.0354), with max|x| / 3.5 0.0464 (0.0552), against 0.0315 (0.0347) here; five
// codes per 16-bit word: 3.2 bits.
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  static constexpr IntFormat kFormat = {
      .bits = 3, .block = 0, .hadamard = true, .quantize = QuantizeSearched3};
  return MakeIntCodec(id, kFormat, params);
}

}  // namespace

const KvCodecInfo kQ3HeadKvCodec = {
    .id = "q3_head",
    .summary = "3-bit codes, one searched scale per row, Hadamard rotation",
    .source = "phasor; rotation QuaRot, 2404.00456",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 3.25,
    .nominal_bits_128 = 3.125,
    .make = Make,
};

}  // namespace phasor
