#include "simd/line_fetcher.h"

#include <unistd.h>

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

const bool kFetchIntoFirstLevel = FirstLevelIsLarge();

}  // namespace phasor
