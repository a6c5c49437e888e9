// q3_head: 3-bit codes with one scale per head row, after a Hadamard rotation.
//
// What: as q4_head with four books of 8 levels and their mirror images; the last two bits of the
// f16 scale are the number of the book. Codes are packed as 2 + 1 bits, with no bit unused.
// Source: phasor's own; rotation as in QuaRot (2404.00456), levels by Lloyd (1982) on Gaussian
// rows (scripts/fit_levels.py).
// Deviations: none, no published form.
// Layout: int_kernels.h, 3 bits, one scale per row; values of a head that the calibration gives
// 3, 4 or 8 bits take those (8: whole numbers to 127, int_codec.h).
// Exactness: approximate; mean squared error on Gaussian rows at D = 64 / 128 at most 0.026 /
// 0.030 of the variance (int_codec_test).
// Cost: 3 + 16/D bits per element; ns per token: kvcodec_bench.
// Limits: head size 1 to 1024. Numbers beyond +-65504 are clamped, NaN counts as 0. Queries are
// rounded to 1/32512 of their largest number; weights times scales to 8 bits without bias, which
// adds at most 1.3 % to the squared error of the codes (int_kernels.h).
// Rejected: on Gaussian rows of 64 (128), against 0.0248 (0.0287) here before lengthening, which
// adds its own share of itself: a uniform grid -4 .. 3 with a searched signed scale 0.0314
// (0.0348); one book with its mirror image 0.0277 (0.0307), two 0.0259 (0.0292); five codes per
// 16-bit word: 3.2 bits.
#include "kvcodec/int_codec.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  return MakeHeadRowCodec(id, 3, params);
}

}  // namespace

const KvCodecInfo kQ3HeadKvCodec = {
    .id = "q3_head",
    .summary = "3-bit codes, levels fitted to the row, Hadamard rotation",
    .source = "phasor; rotation QuaRot, 2404.00456",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = true,
    .nominal_bits_64 = 3.25,
    .nominal_bits_128 = 3.125,
    .make = Make,
};

}  // namespace phasor
