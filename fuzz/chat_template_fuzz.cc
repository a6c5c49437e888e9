// Any bytes as a chat template: parsed, and rendered with one fixed conversation.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "formats/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  auto parsed = phasor::ChatTemplate::Parse({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  phasor::ChatTemplateInputs inputs;
  inputs.messages = {{"system", "Be brief."}, {"user", " H\xc3\xa9llo \xff"}, {"assistant", ""}};
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  inputs.extra_json = R"({"tools": [{"name": "f", "args": {"x": [1, 2.5, null, true]}}], "n": 3})";
  auto rendered = parsed->Render(inputs);
  // An error has to say something.
  if (!rendered.ok() && rendered.status().message().empty()) __builtin_trap();
  return 0;
}
