// Which vector instructions this process uses. Chosen once at run time, never at build time.
//
// A *level* is a bundle every kernel is written for. It can be lowered (never raised) by
// --cpu-level, by the environment variable PHASOR_CPU_LEVEL, or by a test. A processor has kScalar
// and the levels of its own kind, x86-64 or 64-bit ARM.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "phasor/status.h"

namespace phasor {

enum class CpuLevel {
  kScalar,      // plain C++, any CPU
  kAvx2,        // AVX2, FMA, F16C
  kAvx512Vnni,  // AVX-512 F, BW, DQ, VL, VNNI: Cascade Lake, Cooper Lake
  kAvx512,      // the same and VBMI: Ice Lake, Zen 4, and later
  kNeon,        // ARMv8.0 with Advanced SIMD: every 64-bit ARM with Linux
  kNeonDot,     // the same and sdot, udot (ARMv8.2 DotProd): Cortex-A75, Neoverse N1, and later
};

// "scalar", "avx2", "avx512_vnni", "avx512", "neon", "neon_dot".
const char* CpuLevelName(CpuLevel level);

// The levels whose kernels differ in look-ups of bytes alone: most have one version for both.
constexpr bool IsAvx512(CpuLevel level) {
  return level == CpuLevel::kAvx512Vnni || level == CpuLevel::kAvx512;
}

// The highest level this CPU can run.
CpuLevel DetectedCpuLevel();
// The level in force: the detected one unless lowered.
CpuLevel ActiveCpuLevel();
// All levels that this CPU can run, from kScalar up to the detected one, for tests.
std::vector<CpuLevel> AvailableCpuLevels();

// Whose memory system this is: some distances of prefetch were measured to differ.
bool IsIntelCpu();

// Lowers (or restores) the level in force. Fails when the CPU cannot run it. Call it before models
// are loaded: packed weights may depend on it.
Status SetCpuLevel(CpuLevel level);
Status SetCpuLevel(std::string_view name);  // also takes "auto"

// Tile registers with products of bfloat16 (AMX-TILE, AMX-BF16: Sapphire Rapids and later).
// Products of many tokens with packed weights use them at level kAvx512 (ops/matmul_amx.cc), unless
// they are switched off: by EnableAmx or with PHASOR_AMX=0 in the environment.
//
// HasAmx: the CPU has them and Linux lets this process use them; the first call asks it to.
bool HasAmx();
bool AmxEnabled();
// Fails when asked to switch on what HasAmx says is not there.
Status EnableAmx(bool on);

// What products run on, for reports: the name of the level in force, "avx512+amx" with tiles.
std::string ActiveKernels();

}  // namespace phasor
