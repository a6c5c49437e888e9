// libFuzzer entry for tokenizers: the input up to the first zero byte is a tokenizer.json (or a
// GGUF file when it starts with that magic), the rest is text for it.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/check.h"
#include "formats/gguf.h"
#include "formats/tokenizer.h"
#include "formats/utf8.h"

namespace {

void Use(const phasor::Tokenizer& tokenizer, std::string_view text) {
  for (bool special : {false, true}) {
    phasor::EncodeOptions options;
    options.parse_special = options.add_special = special;
    options.invalid_utf8 =
        special ? phasor::InvalidUtf8::kReplace : phasor::InvalidUtf8::kKeepBytes;
    phasor::TokenStream stream(&tokenizer);
    for (int32_t id : tokenizer.Encode(text, options)) {
      PHASOR_CHECK(id >= 0 && id < tokenizer.vocab_size());
      PHASOR_CHECK(phasor::IsValidUtf8(stream.Put(id)));
    }
    PHASOR_CHECK(phasor::IsValidUtf8(stream.Flush()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  phasor::Result<std::unique_ptr<phasor::Tokenizer>> tokenizer =
      phasor::NotFound("nothing read yet");
  std::string_view text;
  if (input.starts_with("GGUF")) {
    auto file = phasor::GgufFile::Parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    if (!file.ok()) return 0;
    tokenizer = phasor::Tokenizer::FromGguf(*file);
  } else {
    std::size_t end = std::min(input.find('\0'), input.size());
    text = input.substr(end);
    tokenizer = phasor::Tokenizer::FromJson(input.substr(0, end), "");
  }
  if (!tokenizer.ok()) {
    PHASOR_CHECK(!tokenizer.status().message().empty());
    return 0;
  }
  Use(**tokenizer, "Hello  wörld's 123\r\n\t<|im_end|></s> 👨‍👩‍👧 \xff\xe4\xb8");
  Use(**tokenizer, text);
  return 0;
}
