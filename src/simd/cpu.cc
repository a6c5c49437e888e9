#include "simd/cpu.h"

#include <atomic>
#include <cstdlib>
#include <iterator>
#include <string>

#include <hwy/targets.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace phasor {
namespace {

constexpr const char* kLevelNames[] = {"scalar", "avx2", "avx512_vnni",
                                       "avx512", "neon", "neon_dot"};
constexpr const char* kExpected =
    "expected auto, scalar, avx2, avx512_vnni, avx512, neon or neon_dot, found ";

CpuLevel Detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#if !defined(PHASOR_EMULATE_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    return __builtin_cpu_supports("avx512vbmi") ? CpuLevel::kAvx512 : CpuLevel::kAvx512Vnni;
  }
#endif
  unsigned a, b, c, d;
  bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) {
#if defined(PHASOR_EMULATE_AVX512)
    return CpuLevel::kAvx512;
#else
    return CpuLevel::kAvx2;
#endif
  }
#elif defined(__aarch64__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0 ? CpuLevel::kNeonDot : CpuLevel::kNeon;
#endif
  return CpuLevel::kScalar;
}

// Whether this CPU can run a level: those of another kind of processor never.
bool CanRun(CpuLevel level) {
#if defined(__aarch64__)
  if (level == CpuLevel::kAvx2 || IsAvx512(level)) return false;
#endif
  return level <= DetectedCpuLevel();
}

Result<CpuLevel> ParseLevel(std::string_view name) {
  if (name == "auto") return DetectedCpuLevel();
  for (std::size_t i = 0; i < std::size(kLevelNames); ++i) {
    if (name == kLevelNames[i]) return static_cast<CpuLevel>(i);
  }
  return InvalidArgument(std::string("cpu-level: ") + kExpected + std::string(name));
}

// -1: not chosen yet.
std::atomic<int> g_level{-1};

// Keeps the Highway kernels (ops/vector_ops.cc) on the level the intrinsics kernels use.
void StoreLevel(CpuLevel level) {
  g_level.store(static_cast<int>(level), std::memory_order_relaxed);
  int64_t targets = hwy::SupportedTargets();
#if defined(__x86_64__)
  int64_t above = 0;
  if (level < CpuLevel::kAvx512) above |= HWY_AVX3_DL;
  if (level < CpuLevel::kAvx512Vnni) above |= HWY_AVX3;
  if (level < CpuLevel::kAvx2) above |= HWY_AVX2;
  targets &= ~above;
#elif defined(__aarch64__)
  // There is no level with SVE; the plain level keeps NEON, as it keeps SSE on x86-64.
  targets &= ~(HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128);
#endif
  hwy::GetChosenTarget().Update(targets);
}

}  // namespace

const char* CpuLevelName(CpuLevel level) { return kLevelNames[static_cast<int>(level)]; }

CpuLevel DetectedCpuLevel() {
  static const CpuLevel level = Detect();
  return level;
}

namespace {

// What the environment asks for, the detected level where it asks for nothing.
Result<CpuLevel> AutomaticLevel() {
  const char* name = std::getenv("PHASOR_CPU_LEVEL");
  if (name == nullptr || *name == 0) return DetectedCpuLevel();
  auto level = ParseLevel(name);
  if (!level.ok()) {
    return InvalidArgument(std::string("PHASOR_CPU_LEVEL: ") + kExpected + std::string(name));
  }
  if (!CanRun(*level)) {
    return Unsupported(std::string("PHASOR_CPU_LEVEL: this CPU can run up to ") +
                       CpuLevelName(DetectedCpuLevel()) + ", found " + name);
  }
  return *level;
}

}  // namespace

CpuLevel ActiveCpuLevel() {
  int level = g_level.load(std::memory_order_relaxed);
  if (level < 0) {
    const auto automatic = AutomaticLevel();
    const CpuLevel chosen = automatic.ok() ? *automatic : DetectedCpuLevel();
    level = static_cast<int>(chosen);
    StoreLevel(chosen);
  }
  return static_cast<CpuLevel>(level);
}

bool IsIntelCpu() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

std::vector<CpuLevel> AvailableCpuLevels() {
  std::vector<CpuLevel> levels;
  for (std::size_t i = 0; i < std::size(kLevelNames); ++i) {
    const auto level = static_cast<CpuLevel>(i);
    if (CanRun(level)) levels.push_back(level);
  }
  return levels;
}

namespace {

bool DetectAmx() {
#if defined(PHASOR_EMULATE_AVX512)
  return DetectedCpuLevel() == CpuLevel::kAvx512;
#elif defined(__x86_64__) && defined(__linux__)
  if (DetectedCpuLevel() != CpuLevel::kAvx512) return false;
  unsigned a, b, c, d;
  constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kTile) == 0 || (d & kBf16) == 0) return false;
  // State components 17 (configuration) and 18 (tiles): kept by the kernel, then granted by it.
  // OSXSAVE needs no look, it came with AVX-512.
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kStates = 3u << 17;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return (low & kStates) == kStates &&
         ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// -1: not chosen yet.
std::atomic<int> g_amx{-1};

}  // namespace

bool HasAmx() {
  static const bool has = DetectAmx();
  return has;
}

bool AmxEnabled() {
  int on = g_amx.load(std::memory_order_relaxed);
  if (on < 0) {
    const char* wish = std::getenv("PHASOR_AMX");
    on = (wish == nullptr || std::string_view(wish) != "0") && HasAmx() ? 1 : 0;
    g_amx.store(on, std::memory_order_relaxed);
  }
  return on != 0;
}

Status EnableAmx(bool on) {
  if (on && !HasAmx()) return Unsupported("amx: this CPU or its kernel does not offer AMX-BF16");
  g_amx.store(on ? 1 : 0, std::memory_order_relaxed);
  return Status::Ok();
}

std::string ActiveKernels() {
  const CpuLevel level = ActiveCpuLevel();
  const bool tiles = level == CpuLevel::kAvx512 && AmxEnabled();
  return std::string(CpuLevelName(level)) + (tiles ? "+amx" : "");
}

Status SetCpuLevel(CpuLevel level) {
  if (!CanRun(level)) {
    return Unsupported(std::string("cpu-level: this CPU can run up to ") +
                       CpuLevelName(DetectedCpuLevel()) + ", found a request for " +
                       CpuLevelName(level));
  }
  StoreLevel(level);
  return Status::Ok();
}

Status SetCpuLevel(std::string_view name) {
  PHASOR_ASSIGN_OR_RETURN(CpuLevel level, name == "auto" ? AutomaticLevel() : ParseLevel(name));
  return SetCpuLevel(level);
}

}  // namespace phasor
