// libFuzzer entry for the safetensors reader and for the JSON check that guards config files.
#include "../tests/support/touch_tensors.h"
#include "formats/hf_folder.h"
#include "formats/json_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  auto file = phasor::SafetensorsFile::Parse(bytes, "fuzz");
  if (file.ok()) {
    phasor::testing::KeepResult(phasor::testing::TouchTensors(file->tensors()));
  } else {
    PHASOR_CHECK(!file.status().message().empty());
  }
  constexpr std::size_t kLengthBytes = 8;
  if (size > kLengthBytes) {
    std::string_view text(reinterpret_cast<const char*>(data) + kLengthBytes, size - kLengthBytes);
    phasor::Status status = phasor::CheckJsonObject(text, "fuzz");
    PHASOR_CHECK(status.ok() || !status.message().empty());
  }
  return 0;
}
