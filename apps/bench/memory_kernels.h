// Reading and copying memory at full speed, one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/cpu.h"

namespace phasor::bench {

// The exclusive or of all 64-bit words, so that no load can be left out. `size_bytes`: a multiple
// of 512; data 64-byte aligned. prefetch_bytes: how far ahead lines are asked for (0: not at all;
// the plain form ignores it).
uint64_t ReadMemory(CpuLevel level, const std::byte* data, std::size_t size_bytes,
                    std::size_t prefetch_bytes);
// Copies with stores that pass the caches by where the level has them. Same conditions.
void CopyMemory(CpuLevel level, const std::byte* from, std::byte* to, std::size_t size_bytes);

}  // namespace phasor::bench
