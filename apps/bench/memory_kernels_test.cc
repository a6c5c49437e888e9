#include "bench/memory_kernels.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/aligned.h"
#include "base/rng.h"

namespace phasor::bench {
namespace {

TEST(MemoryKernels, EveryWordIsReadAtEveryLevel) {
  Rng rng(1);
  for (const std::size_t size : {std::size_t{512}, std::size_t{1024}, std::size_t{512 * 37}}) {
    AlignedBuffer<uint64_t> data(size / 8);
    uint64_t expected = 0;
    for (std::size_t i = 0; i < data.size(); ++i) expected ^= data[i] = rng.NextU64();
    for (CpuLevel level : AvailableCpuLevels()) {
      for (std::size_t prefetch : {0, 1024}) {
        const auto* bytes = reinterpret_cast<const std::byte*>(data.data());
        EXPECT_EQ(ReadMemory(level, bytes, size, prefetch), expected) << CpuLevelName(level);
      }
    }
  }
}

TEST(MemoryKernels, ACopyIsEqualAndEndsWhereItShould) {
  Rng rng(2);
  constexpr std::size_t kSize = 512 * 5, kGuard = 64;
  AlignedBuffer<std::byte> from(kSize + kGuard), to(kSize + kGuard);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(rng.Below(256));
  for (CpuLevel level : AvailableCpuLevels()) {
    std::memset(to.data(), 0x5a, to.size());
    CopyMemory(level, from.data(), to.data(), kSize);
    EXPECT_EQ(std::memcmp(from.data(), to.data(), kSize), 0) << CpuLevelName(level);
    for (std::size_t i = 0; i < kGuard; ++i) EXPECT_EQ(to[kSize + i], std::byte{0x5a});
  }
}

}  // namespace
}  // namespace phasor::bench
