#include <cstdio>

#include "phasor/status.h"
#include "phasor/version.h"

int main() {
  const phasor::Status status = phasor::NotFound("x");
  std::printf("%s %s\n", phasor::Version(), phasor::StatusCodeName(status.code()));
  return 0;
}
