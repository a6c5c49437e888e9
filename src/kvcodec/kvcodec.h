// The codecs of this folder: one constant per file, listed in src/registry/kv_codec_table.cc.
#pragma once

#include "contracts/kv_codec.h"

namespace phasor {

// Rows as they are.
extern const KvCodecInfo kF32KvCodec;
extern const KvCodecInfo kF16KvCodec;
extern const KvCodecInfo kBf16KvCodec;

}  // namespace phasor
