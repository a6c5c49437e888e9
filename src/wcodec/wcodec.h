// The weight formats, one file each. Code outside this folder finds them through
// registry/weight_codec_table.h.
#pragma once

#include "contracts/weight_codec.h"

namespace phasor {

extern const WeightCodecInfo kF32WeightCodec;
extern const WeightCodecInfo kF16WeightCodec;
extern const WeightCodecInfo kBf16WeightCodec;
extern const WeightCodecInfo kQ4_0WeightCodec;
extern const WeightCodecInfo kQ4_1WeightCodec;
extern const WeightCodecInfo kQ5_0WeightCodec;
extern const WeightCodecInfo kQ5_1WeightCodec;
extern const WeightCodecInfo kQ8_0WeightCodec;
extern const WeightCodecInfo kQ4_KWeightCodec;
extern const WeightCodecInfo kQ5_KWeightCodec;
extern const WeightCodecInfo kQ6_KWeightCodec;

}  // namespace phasor
