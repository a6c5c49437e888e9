#include "simd/line_fetcher.h"

#include <unistd.h>

#include "simd/cpu.h"

namespace phasor {
namespace {

bool FirstLevelIsLarge() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  return ::sysconf(_SC_LEVEL1_DCACHE_SIZE) >= 48 * 1024;
#else
  return false;
#endif
}

}  // namespace

const bool kFetchIntoFirstLevel = FirstLevelIsLarge() && !IsIntelCpu();

}  // namespace phasor
