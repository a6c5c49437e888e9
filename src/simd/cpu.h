// Which vector instructions this process uses. Chosen once at run time, never at build time.
//
// A *level* is a bundle every kernel is written for. It can be lowered (never raised) by
// --cpu-level, by the environment variable PHASOR_CPU_LEVEL, or by a test.
#pragma once

#include <string_view>
#include <vector>

#include "phasor/status.h"

namespace phasor {

enum class CpuLevel {
  kScalar = 0,  // plain C++, any CPU
  kAvx2 = 1,    // AVX2, FMA, F16C
  kAvx512 = 2,  // AVX-512 F, BW, DQ, VL, VNNI, VBMI: Ice Lake, Zen 4, and later
};

const char* CpuLevelName(CpuLevel level);  // "scalar", "avx2", "avx512"

// The highest level this CPU can run.
CpuLevel DetectedCpuLevel();
// The level in force: the detected one unless lowered.
CpuLevel ActiveCpuLevel();
// All levels from kScalar up to the detected one, for tests.
std::vector<CpuLevel> AvailableCpuLevels();

// Lowers (or restores) the level in force. Fails when the CPU cannot run it. Call it before models
// are loaded: packed weights may depend on it.
Status SetCpuLevel(CpuLevel level);
Status SetCpuLevel(std::string_view name);  // also takes "auto"

}  // namespace phasor
