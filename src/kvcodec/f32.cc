// f32: keys and values as 32-bit floats, one row per token.
//
// What: the row codec that loses nothing: the reference every other codec is measured against.
// Source: IEEE 754 binary32.
// Deviations: none.
// Layout: [128 tokens][D] float; token t at byte t * D * 4. Bytes per page: 128 * D * 4.
// Exactness: exact for finite input.
// Cost: 32 bits per element; reads as many bytes per score.
// Limits: head size 1 to 1024. NaN is stored as 0, an infinity as +-65504.
// Rejected: nothing yet.
#include "kvcodec/kvcodec.h"
#include "kvcodec/row_codec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  return MakeRowCodec(id, RowType::kF32, params);
}

}  // namespace

const KvCodecInfo kF32KvCodec = {
    .id = "f32",
    .summary = "32-bit float rows, exact",
    .source = "IEEE 754 binary32",
    .for_keys = true,
    .for_values = true,
    .exact = true,
    .uses_calibration = false,
    .nominal_bits_64 = 32,
    .nominal_bits_128 = 32,
    .make = Make,
};

}  // namespace phasor
