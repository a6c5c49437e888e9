// The weight formats phasor can multiply with. To add one: src/wcodec/<id>.cc, its declaration in
// wcodec.h, and a line in weight_codec_table.cc.
#pragma once

#include <span>

#include "contracts/weight_codec.h"

namespace phasor {

// Every format, in the order they are listed to users; static storage.
std::span<const WeightCodecInfo* const> WeightCodecs();
// Null where no codec reads the type.
const WeightCodecInfo* FindWeightCodec(DType dtype);

}  // namespace phasor
