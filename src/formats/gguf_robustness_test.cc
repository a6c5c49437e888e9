// Damaged files: no cut and no flipped byte may crash the parser (run under ASan by `make asan`).
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "formats/gguf.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/touch_tensors.h"

namespace phasor {
namespace {

using phasor::testing::GgufBuilder;

std::string SmallImage() {
  return GgufBuilder()
      .Add("general.architecture", "llama")
      .Add("llama.block_count", uint32_t{2})
      .Add("rope", 10000.0f)
      .Add("flag", true)
      .Add("u64", uint64_t{5})
      .Add("tokens", std::vector<std::string>{"a", "", "ccc"})
      .Add("scores", std::vector<float>{0, 1, 2})
      .Add("types", std::vector<int32_t>{1, 2, 3})
      .AddF32("norm", {4}, {1, 2, 3, 4})
      .AddTensor("w", DType::kQ8_0, {32, 2}, std::string(68, 'q'))
      .AddTensor("new", 99, {5}, std::string(9, 'n'))
      .AddTensor("last", DType::kF16, {8}, std::string(16, 'h'))
      .Build();
}

// Parses a copy that ends exactly with its allocation, so that ASan sees any read past it.
bool ParseAndTouch(const char* data, std::size_t size) {
  auto copy = std::make_unique<std::byte[]>(size);
  std::memcpy(copy.get(), data, size);
  Result<GgufFile> file = GgufFile::Parse({copy.get(), size}, "damaged");
  if (!file.ok()) {
    EXPECT_FALSE(file.status().message().empty());
    return false;
  }
  phasor::testing::TouchTensors(file->tensors());
  phasor::testing::TouchGetters(*file);
  return true;
}

TEST(GgufRobustness, EveryTruncationIsAnError) {
  std::string image = SmallImage();
  for (std::size_t size = 0; size < image.size(); ++size) {
    EXPECT_FALSE(ParseAndTouch(image.data(), size)) << size << " of " << image.size() << " bytes";
  }
  EXPECT_TRUE(ParseAndTouch(image.data(), image.size()));
}

TEST(GgufRobustness, FlippedBytesNeverCrash) {
  constexpr int kRounds = 10000;
  const std::string image = SmallImage();
  Rng rng(1);
  int n_valid = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::string damaged = image;
    for (uint64_t n = 1 + rng.Below(4); n > 0; --n) {
      damaged[rng.Below(damaged.size())] ^= static_cast<char>(1 + rng.Below(255));
    }
    n_valid += ParseAndTouch(damaged.data(), damaged.size());
  }
  // Flips in tensor data, text and numbers leave a valid file; most others do not.
  EXPECT_GT(n_valid, kRounds / 20);
  EXPECT_LT(n_valid, kRounds);
}

// Whole words replaced by the numbers that break careless arithmetic.
TEST(GgufRobustness, ExtremeWordsNeverCrash) {
  constexpr uint64_t kWords[] = {0,
                                 1,
                                 31,
                                 uint64_t{1} << 31,
                                 uint64_t{1} << 32,
                                 uint64_t{1} << 61,
                                 (uint64_t{1} << 63) - 1,
                                 uint64_t{1} << 63,
                                 ~uint64_t{31},
                                 ~uint64_t{0}};
  const std::string image = SmallImage();
  int n_rejected = 0;
  for (std::size_t at = 0; at + 8 <= image.size(); ++at) {
    for (uint64_t word : kWords) {
      std::string damaged = image;
      std::memcpy(damaged.data() + at, &word, sizeof(word));
      n_rejected += !ParseAndTouch(damaged.data(), damaged.size());
    }
  }
  EXPECT_GT(n_rejected, 0);
}

}  // namespace
}  // namespace phasor
