// What the tests of retrieval share: a small model with random weights, and a text.
#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"

namespace phasor::eval {

inline Result<std::unique_ptr<LoadedModel>> GoldenModel() {
  return LoadedModel::Load({.path = PHASOR_SOURCE_DIR "/tests/golden/models/llama_quantized.gguf",
                            .n_threads = 1,
                            .calibration_path = "",
                            .on_progress = {}});
}

// 4,000 words of five letters in sentences of nine.
inline std::string PretendedBook() {
  std::string text;
  for (int i = 0; i < 4000; ++i) {
    for (int shift = 0; shift < 15; shift += 3)
      text += static_cast<char>('a' + (i * 37 >> shift) % 8);
    text += i % 9 == 8 ? ". " : " ";
  }
  return text;
}

}  // namespace phasor::eval
