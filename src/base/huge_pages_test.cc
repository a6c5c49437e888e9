#include "base/huge_pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <thread>
#include <vector>

#include "base/aligned.h"

namespace phasor {
namespace {

bool AllEqual(const HugeBlock& block, int value) {
  for (std::size_t i = 0; i < block.size(); ++i) {
    if (block.data()[i] != static_cast<std::byte>(value)) return false;
  }
  return true;
}

TEST(HugePages, BlocksAreZeroedAlignedAndApart) {
  std::vector<HugeBlock> blocks;
  for (std::size_t size : {1ul, 64ul, 65ul, 100000ul, 3ul << 20, 70ul << 20, 5ul}) {
    blocks.emplace_back(size);
    ASSERT_EQ(blocks.back().size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().data()) % kAlignment, 0u);
    EXPECT_TRUE(AllEqual(blocks.back(), 0)) << size;
    std::memset(blocks.back().data(), static_cast<int>(blocks.size()), size);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_TRUE(AllEqual(blocks[i], static_cast<int>(i + 1))) << "block " << i;
  }
}

TEST(HugePages, ABlockOutlivesItsNeighbours) {
  HugeBlock kept;
  {
    HugeBlock first(1000), second(1000);
    std::memset(second.data(), 7, second.size());
    kept = std::move(second);
  }
  HugeBlock later(1000);
  std::memset(later.data(), 9, later.size());
  EXPECT_TRUE(AllEqual(kept, 7));
}

TEST(HugePages, ThreadsMayAllocateAtTheSameTime) {
  std::vector<std::vector<HugeBlock>> blocks(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        blocks[static_cast<std::size_t>(t)].emplace_back(1000 + i);
        std::memset(blocks[static_cast<std::size_t>(t)].back().data(), t + 1, 1000);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 4; ++t) {
    for (const HugeBlock& block : blocks[static_cast<std::size_t>(t)]) {
      for (int i = 0; i < 1000; ++i) ASSERT_EQ(block.data()[i], static_cast<std::byte>(t + 1));
    }
  }
}

TEST(HugePages, MoreThanTheSystemHasIsAnException) {
  EXPECT_THROW(HugeBlock(std::numeric_limits<std::size_t>::max()), std::bad_alloc);
  EXPECT_THROW(HugeBlock(std::size_t{1} << 60), std::bad_alloc);
}

}  // namespace
}  // namespace phasor
