// What f32, f16 and bf16 share: a page is kPageTokens packed rows of head_dim numbers.
#pragma once

#include <memory>

#include "contracts/kv_codec.h"
#include "kvcodec/row_kernels.h"

namespace phasor {

// Largest head size any codec of this folder takes; keeps scratch rows on the stack.
inline constexpr int kMaxHeadDim = 1024;

// kUnsupported unless 1 <= head_dim <= kMaxHeadDim.
Status CheckHeadDim(const char* id, int head_dim);

// The row codec of `type`. Fails with kUnsupported where CheckHeadDim does.
Result<std::unique_ptr<KvCodec>> MakeRowCodec(const char* id, RowType type,
                                              const KvCodecParams& params);

}  // namespace phasor
