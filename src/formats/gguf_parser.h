// Reads the header of one GGUF file; GgufFile (gguf.h) joins the parts of split files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "phasor/status.h"

namespace phasor {

struct GgufPart {
  uint32_t version = 0;
  std::map<std::string, GgufValue> metadata;
  std::vector<TensorView> tensors;  // in the file's order; bytes point into the input
};

// Errors: kDataCorrupt for damaged or hostile bytes, kUnsupported for versions, byte orders and
// nested arrays phasor does not read. Memory used is at most a small multiple of bytes.size().
Result<GgufPart> ParseGgufPart(std::span<const std::byte> bytes);

// "u32", "string", ...; "unknown" for other numbers.
const char* GgufValueTypeName(GgufType type);

}  // namespace phasor
