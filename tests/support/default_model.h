// Where the default model lies, for the tests that need it.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

#include "base/file.h"

namespace phasor::testing {

// $PHASOR_TEST_MODEL, else the file that scripts/get_model.sh leaves in the user's cache folder;
// nothing when there is no such file.
inline std::optional<std::string> DefaultModelPath() {
  const char* variable = std::getenv("PHASOR_TEST_MODEL");
  std::string path = variable != nullptr
                         ? std::string(variable)
                         : UserCacheDir() + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!FileExists(path)) return std::nullopt;
  return path;
}

}  // namespace phasor::testing
