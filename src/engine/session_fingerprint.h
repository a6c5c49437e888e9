// What must be equal for the cached bytes of a session to mean the same in another one.
#pragma once

#include <string>

#include "engine/engine.h"
#include "phasor/status.h"
#include "store/span.h"

namespace phasor {

// 32 hex digits over names, types and shapes of all tensors and samples of their bytes: 16
// stretches of 4 KiB, evenly spread (the whole tensor where that is less). Costs milliseconds for a
// model of any size; a change confined to bytes between the samples goes unseen.
std::string ModelHash(const LoadedModel& model);

// 32 hex digits over what every token id stands for.
std::string TokenizerHash(const Tokenizer& tokenizer);

// Complete: model, tokenizer, codecs with their layouts and calibration by layer, schedule, sizes.
SpanFingerprint SessionFingerprint(const Session& session);

// The cache types of a layer from a codec of its fingerprint: "a/b" of "a@2/b".
std::string TypesOfLayer(const std::string& codec);

}  // namespace phasor
