// Typed access to parsed JSON, and the parts of a tokenizer.json that describe steps.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "formats/tokenizer/pipeline.h"
#include "phasor/status.h"

namespace phasor {

using Json = nlohmann::json;

// The member, or nullptr when `object` is none, lacks it or holds null there.
const Json* JsonMember(const Json& object, const char* name);
// The member with the wanted type, `otherwise` when it is missing; kDataCorrupt on another type.
Result<std::string> JsonString(const Json& object, const char* name, const char* otherwise);
Result<bool> JsonBool(const Json& object, const char* name, bool otherwise);
// A JSON integer in [0, end).
Result<int32_t> JsonId(const Json& value, const std::string& what, int64_t end);

// json_steps.cc: "normalizer", "pre_tokenizer" and "decoder" (never null here).
Status ReadJsonNormalizer(const Json& node, Normalizer* out);
// *byte_level is set when the ByteLevel step is there, which must be the last.
Status ReadJsonPreTokenizer(const Json& node, PreTokenizer* out, bool* byte_level);

// How ids become text.
struct JsonDecoder {
  bool byte_level = false;
  bool byte_fallback = false;
  std::vector<std::pair<std::string, std::string>> replacements;
  DecodeTrim trim;
  // What a vocabulary token adds to the text.
  std::string Bytes(const std::string& token) const;
};
Status ReadJsonDecoder(const Json& node, JsonDecoder* out);

}  // namespace phasor
