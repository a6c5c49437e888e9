#include <cstdio>

#include "phasor/phasor.h"

// Loading a file that is not there goes through the whole library and comes back as a value.
int main() {
  const auto model = phasor::Model::Load({.path = "no-such-file.gguf"});
  std::printf("%s %s\n", phasor::Version(), phasor::StatusCodeName(model.status().code()));
  return 0;
}
