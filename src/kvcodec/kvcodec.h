// The codecs of this folder: one constant per file, listed in src/registry/kv_codec_table.cc.
#pragma once

#include "contracts/kv_codec.h"

namespace phasor {

// Rows as they are.
extern const KvCodecInfo kF32KvCodec;
extern const KvCodecInfo kF16KvCodec;
extern const KvCodecInfo kBf16KvCodec;
// Integer codes, one scale per 32 channels; the h forms after a Hadamard rotation.
extern const KvCodecInfo kQ8_0KvCodec;
extern const KvCodecInfo kQ8_0hKvCodec;
extern const KvCodecInfo kQ4_0KvCodec;
extern const KvCodecInfo kQ4_0hKvCodec;
// Integer codes, one scale per row, rotated.
extern const KvCodecInfo kQ4HeadKvCodec;
extern const KvCodecInfo kQ3HeadKvCodec;

// Keys as integers per channel in a turning frame.
extern const KvCodecInfo kFrame4KvCodec;
extern const KvCodecInfo kFrame3KvCodec;
// Keys as radius and angle.
extern const KvCodecInfo kPolarKvCodec;
extern const KvCodecInfo kPolar33KvCodec;
extern const KvCodecInfo kPolar34KvCodec;
extern const KvCodecInfo kPolar35KvCodec;
extern const KvCodecInfo kPolar44KvCodec;
extern const KvCodecInfo kPolar45KvCodec;
extern const KvCodecInfo kPolar55KvCodec;
extern const KvCodecInfo kPolar33Cut0KvCodec;
extern const KvCodecInfo kPolar44Cut0KvCodec;

// Integers per channel.
extern const KvCodecInfo kInt4ChannelKvCodec;
extern const KvCodecInfo kInt3ChannelKvCodec;

}  // namespace phasor
