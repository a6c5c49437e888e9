// The KV codecs that exist, in the order in which help and documents list them.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "contracts/kv_codec.h"

namespace phasor {

std::span<const KvCodecInfo> KvCodecs();
// Null when there is no such id.
const KvCodecInfo* FindKvCodec(std::string_view id);

// A codec for one layer, KV head and role. Unknown id: kInvalidArgument, with the ids that can hold
// this role. An id that cannot hold this role, or cannot take this head size: kUnsupported.
Result<std::unique_ptr<KvCodec>> MakeKvCodec(std::string_view id, const KvCodecParams& params);

// The codecs single tokens can be appended to: f32, f16, bf16. Any other id: kInvalidArgument.
Result<std::unique_ptr<RowKvCodec>> MakeRowKvCodec(std::string_view id,
                                                   const KvCodecParams& params);

}  // namespace phasor
