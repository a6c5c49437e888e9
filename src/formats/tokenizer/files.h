// Readers of the two tokenizer formats; Tokenizer's factories call these.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "formats/tokenizer.h"

namespace phasor {

// The texts of a model folder's tokenizer files; all but the first may be empty.
struct TokenizerTexts {
  std::string_view tokenizer_json;
  std::string_view tokenizer_config_json;
  std::string_view special_tokens_map_json;
  std::string_view generation_config_json;
  std::string_view chat_template;  // of chat_template.jinja; wins over the config's
};

// json.cc. kDataCorrupt for what is no tokenizer, kUnsupported for parts phasor lacks.
Result<std::unique_ptr<Tokenizer>> TokenizerFromTexts(const TokenizerTexts& texts);

// gguf.cc.
Result<std::unique_ptr<Tokenizer>> TokenizerFromGgufMetadata(const GgufFile& file);

}  // namespace phasor
