#include "registry/weight_codec_table.h"

#include "wcodec/wcodec.h"

namespace phasor {
namespace {

constexpr const WeightCodecInfo* kTable[] = {
    &kF32WeightCodec,  &kF16WeightCodec,  &kBf16WeightCodec, &kQ8_0WeightCodec,
    &kQ6_KWeightCodec, &kQ5_KWeightCodec, &kQ5_1WeightCodec, &kQ5_0WeightCodec,
    &kQ4_KWeightCodec, &kQ4_1WeightCodec, &kQ4_0WeightCodec,
};

}  // namespace

std::span<const WeightCodecInfo* const> WeightCodecs() { return kTable; }

const WeightCodecInfo* FindWeightCodec(DType dtype) {
  for (const WeightCodecInfo* codec : kTable) {
    if (codec->dtype == dtype) return codec;
  }
  return nullptr;
}

}  // namespace phasor
