// f16: keys and values as 16-bit floats, one row per token.
//
// What: the row codec that first and newest tokens are kept in by default.
// Source: IEEE 754 binary16, round to nearest even.
// Deviations: none.
// Layout: [128 tokens][D] binary16; token t at byte t * D * 2. Bytes per page: 128 * D * 2.
// Exactness: relative error <= 2^-11 for 2^-14 <= |x| <= 65504; larger numbers saturate.
// Cost: 16 bits per element; reads as many bytes per score.
// Limits: head size 1 to 1024. NaN is stored as 0, an infinity as +-65504.
// Rejected: a query rounded to f16 for native f16 products: it would add an error of its own size.
#include "kvcodec/kvcodec.h"
#include "kvcodec/row_codec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  return MakeRowCodec(id, RowType::kF16, params);
}

}  // namespace

const KvCodecInfo kF16KvCodec = {
    .id = "f16",
    .summary = "16-bit float rows (IEEE half)",
    .source = "IEEE 754 binary16",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 16,
    .nominal_bits_128 = 16,
    .make = Make,
};

}  // namespace phasor
