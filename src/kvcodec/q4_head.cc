// q4_head: 4-bit codes with one scale per head row, after a Hadamard rotation; the default for
// values.
//
// What: rotated numbers are close to Gaussian, so one scale serves the row. A row takes one of
// two books of 16 levels, or its mirror image (negative scale), and one of 8 sizes of the scale,
// whichever loses least; then the scale is fitted once more, and lengthened until the stored row,
// seen along the row, is as long as that: nearest levels alone are shorter by their share of the
// squared error, and so would be every sum of values. The last bit of the f16 scale is the number
// of the book, so that the choice costs no space. With directions from a calibration, values are
// stretched along them and codes make up for each other's errors (value_stretch.h).
// Source: phasor's own; rotation as in QuaRot (2404.00456), levels by Lloyd (1982) on Gaussian
// rows (scripts/fit_levels.py); error feedback as in GPTQ (2210.17323), there for weights.
// Deviations: none, no published form.
// Layout: int_kernels.h, 4 bits, one scale per row; values of a head that the calibration gives
// 3, 4 or 8 bits take those (8: whole numbers to 127, int_codec.h).
// Exactness: approximate; mean squared error on Gaussian rows at D = 64 / 128 at most 0.0066 /
// 0.0076 of the variance (int_codec_test).
// Cost: 4 + 16/D bits per element; ns per token: kvcodec_bench.
// Limits: head size 1 to 1024. Numbers beyond +-65504 are clamped, NaN counts as 0. Queries are
// rounded to 1/32512 of their largest number; weights times scales to 8 bits without bias, which
// adds at most 5.3 % to the squared error of the codes (int_kernels.h).
// Rejected: on Gaussian rows of 64 (128), against 0.0063 (0.0073) here before lengthening, which
// adds its own share of itself: a uniform grid -8 .. 7 with a searched signed scale 0.0082
// (0.0094); one book with its mirror image 0.0067 (0.0075).
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  return MakeHeadRowCodec(id, 4, params);
}

}  // namespace

const KvCodecInfo kQ4HeadKvCodec = {
    .id = "q4_head",
    .summary = "4-bit codes, levels fitted to the row, Hadamard rotation; default for values",
    .source = "phasor; rotation QuaRot, 2404.00456",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = true,
    .nominal_bits_64 = 4.25,
    .nominal_bits_128 = 4.125,
    .make = Make,
};

}  // namespace phasor
