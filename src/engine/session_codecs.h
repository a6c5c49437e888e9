// From flags to codec objects: one key and one value codec per layer and KV head.
#pragma once

#include <vector>

#include "cache/kv_cache.h"
#include "contracts/position_method.h"
#include "engine/engine.h"

namespace phasor {

// "a,b*2,c" gives a for layer 0, b for the next two, c for all that follow; an entry "x/y" gives x
// to the layer's first KV head and y to all others. Result: the type of every KV head [n_layers,
// n_kv_heads]. kInvalidArgument for empty entries, a count that is none, or more entries than there
// are layers or heads.
Result<std::vector<std::string>> HeadTypes(const std::string& flag, const std::string& types,
                                           int n_layers, int n_kv_heads);

// The row codec that holds the first and newest tokens beside a codec: "f16" or "bf16" or "f32".
const char* WindowType(const std::string& type);

// Frequencies as codecs take them (KvCodecParams::omega_P).
std::vector<float> RadiansPerToken(const PhaseTable& phases);

// The phase table a session turns by: of its own schedule or the model's, for its context.
// kInvalidArgument when the schedule's n_rot is neither 0 nor the model's, or the method refuses.
Result<PhaseTable> MakeSessionPhases(const ModelConfig& config, const SessionOptions& options);

Result<std::vector<KvHeadCodecs>> MakeSessionCodecs(const ModelConfig& config,
                                                    const Calibration* calibration,
                                                    const SessionOptions& options);

// kResourceExhausted when a full context would not fit into the machine's memory.
Status CheckCacheMemory(const ModelConfig& config, const Calibration* calibration,
                        const SessionOptions& options, int64_t n_ctx);

}  // namespace phasor
