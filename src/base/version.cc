#include "phasor/version.h"

#ifndef PHASOR_VERSION
#error "PHASOR_VERSION is set by CMakeLists.txt for this file"
#endif

namespace phasor {

const char* Version() { return PHASOR_VERSION; }

}  // namespace phasor
