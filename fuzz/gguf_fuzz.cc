// libFuzzer entry for the GGUF reader: any bytes give a file or an error, and every view and getter
// of a file that was accepted stays inside the input.
#include "../tests/support/touch_tensors.h"
#include "formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  auto file = phasor::GgufFile::Parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  if (!file.ok()) {
    PHASOR_CHECK(!file.status().message().empty());
    return 0;
  }
  phasor::testing::KeepResult(phasor::testing::TouchTensors(file->tensors()) +
                              static_cast<uint64_t>(phasor::testing::TouchGetters(*file)));
  return 0;
}
