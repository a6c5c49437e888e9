// For tests of instructions that no machine of this project has run yet.
#pragma once

#include <cstdlib>
#include <string_view>

#include "simd/cpu.h"

namespace phasor {

inline bool IsSetToOne(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::string_view(value) == "1";
}

// Whether tests may use tile registers: emulated ones always, those of the CPU when PHASOR_AMX=1.
inline bool TestAmx() {
#if defined(PHASOR_EMULATE_AVX512)
  return HasAmx();
#else
  return IsSetToOne("PHASOR_AMX") && HasAmx();
#endif
}

}  // namespace phasor
