#include "formats/tokenizer.h"

#include <new>

#include "base/file.h"
#include "formats/gguf.h"
#include "formats/tokenizer/files.h"
#include "formats/utf8.h"

namespace phasor {
namespace {

// The largest published tokenizer.json is below 40 MB.
constexpr std::size_t kMaxTokenizerFileBytes = 256u << 20;

// Empty when there is no such file.
Result<std::string> ReadOptional(const std::string& path) {
  if (!FileExists(path)) return std::string();
  return ReadFile(path, kMaxTokenizerFileBytes);
}

// Memory is the one thing that fails by exception below this border.
template <typename F>
Result<std::unique_ptr<Tokenizer>> CatchNoMemory(F&& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("tokenizer: out of memory");
  }
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufFile& file) {
  return CatchNoMemory([&] { return TokenizerFromGgufMetadata(file); });
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromHfFolder(const std::string& folder) {
  return CatchNoMemory([&]() -> Result<std::unique_ptr<Tokenizer>> {
    std::string path = folder + "/tokenizer.json";
    if (!FileExists(path)) {
      return NotFound("tokenizer: expected " + path + ", found no such file");
    }
    PHASOR_ASSIGN_OR_RETURN(std::string json, ReadFile(path, kMaxTokenizerFileBytes));
    PHASOR_ASSIGN_OR_RETURN(std::string config, ReadOptional(folder + "/tokenizer_config.json"));
    PHASOR_ASSIGN_OR_RETURN(std::string map, ReadOptional(folder + "/special_tokens_map.json"));
    PHASOR_ASSIGN_OR_RETURN(std::string generation,
                            ReadOptional(folder + "/generation_config.json"));
    PHASOR_ASSIGN_OR_RETURN(std::string chat, ReadOptional(folder + "/chat_template.jinja"));
    return TokenizerFromTexts({json, config, map, generation, chat});
  });
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json,
                                                       std::string_view tokenizer_config_json) {
  return CatchNoMemory([&] {
    return TokenizerFromTexts({tokenizer_json, tokenizer_config_json, {}, {}, {}});
  });
}

std::string TokenStream::Put(int32_t id) {
  pending_ += tokenizer_->TokenBytes(id, skip_special_);
  std::string out;
  std::size_t i = 0;
  while (i < pending_.size()) {
    Utf8Unit unit = NextUtf8(pending_, i);
    if (unit.at_end) break;  // the next token may hold the rest
    if (unit.valid) {
      out.append(pending_, i, unit.size);
    } else {
      out += kReplacementCharacter;
    }
    i += unit.size;
  }
  pending_.erase(0, i);
  return out;
}

std::string TokenStream::Flush() {
  std::string out = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace phasor
