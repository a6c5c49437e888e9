// bf16: keys and values as bfloat16, one row per token.
//
// What: the row codec for models whose cache leaves the range of f16.
// Source: bfloat16, round to nearest even.
// Deviations: none.
// Layout: [128 tokens][D] bfloat16; token t at byte t * D * 2. Bytes per page: 128 * D * 2.
// Exactness: relative error <= 2^-9 for normal numbers; above 3.39e38 saturates.
// Cost: 16 bits per element; reads as many bytes per score.
// Limits: head size 1 to 1024. NaN is stored as 0, an infinity as +-65504 (here 65536, the nearest
// bfloat16).
// Rejected: vdpbf16ps for scores: it needs the query in bfloat16 too, which doubles the error.
#include "kvcodec/kvcodec.h"
#include "kvcodec/row_codec.h"

namespace phasor {
namespace {

Result<std::unique_ptr<KvCodec>> Make(const char* id, const KvCodecParams& params) {
  return MakeRowCodec(id, RowType::kBf16, params);
}

}  // namespace

const KvCodecInfo kBf16KvCodec = {
    .id = "bf16",
    .summary = "16-bit float rows (bfloat16)",
    .source = "IEEE 754 binary32, upper half",
    .for_keys = true,
    .for_values = true,
    .exact = false,
    .uses_calibration = false,
    .nominal_bits_64 = 16,
    .nominal_bits_128 = 16,
    .make = Make,
};

}  // namespace phasor
