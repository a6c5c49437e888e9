#include "kvcodec/int_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/hadamard.h"
#include "kvcodec/int_kernels.h"
#include "kvcodec/kvcodec.h"
#include "simd/cpu.h"
#include "tensor/half.h"

namespace phasor {
namespace {

// What the gguf package (0.19) stores for x[i] = ((i * 7919) % 1000 - 500) / 97.
constexpr uint16_t kQ8Scales[] = {0x2932, 0x292a};
constexpr int kQ8Codes[] = {-127, 106, 86, 65, 45, 24,  4,   -17, -38, -58,  -79,  -99,  -120,
                            114,  93,  72, 52, 31, 11,  -10, -30, -51, -72,  -92,  -113, 121,
                            100,  80,  59, 38, 18, -3,  -24, -44, -65, -86,  -106, -127, 108,
                            87,   66,  46, 25, 4,  -16, -37, -58, -78, -99,  -120, 115,  94,
                            74,   53,  32, 11, -9, -30, -51, -71, -92, -113, 122,  101};
constexpr uint16_t kQ4Scales[] = {0x3928, 0x3920};
constexpr int kQ4Codes[] = {0,  15, 13, 12, 11, 10, 8,  7,  6,  4,  3,  2,  0,  15, 14, 13,
                            11, 10, 9,  7,  6,  5,  3,  2,  1,  15, 14, 13, 12, 10, 9,  8,
                            7,  5,  4,  3,  1,  0,  15, 13, 12, 11, 10, 8,  7,  6,  4,  3,
                            2,  0,  15, 14, 13, 11, 10, 9,  7,  6,  5,  4,  2,  1,  15, 14};

std::vector<float> GoldenInput() {
  std::vector<float> x(64);
  for (int i = 0; i < 64; ++i) x[i] = static_cast<float>((i * 7919) % 1000 - 500) / 97.0f;
  return x;
}

TEST(IntCodec, BlocksEqualGgml) {
  const std::vector<float> x = GoldenInput();
  for (int b = 0; b < 2; ++b) {
    uint16_t scale;
    int16_t codes[32];
    QuantizeQ8_0(&x[32 * b], 32, &scale, codes);
    EXPECT_EQ(scale, kQ8Scales[b]);
    for (int i = 0; i < 32; ++i) EXPECT_EQ(codes[i], kQ8Codes[32 * b + i]) << i;
    QuantizeQ4_0(&x[32 * b], 32, &scale, codes);
    EXPECT_EQ(scale, kQ4Scales[b]);
    for (int i = 0; i < 32; ++i) EXPECT_EQ(codes[i], kQ4Codes[32 * b + i]) << i;
  }
}

TEST(IntCodec, PagesOfQ8AndQ4DecodeToGgmlNumbers) {
  const std::vector<float> x = GoldenInput();
  for (KvRole role : {KvRole::kKey, KvRole::kValue}) {
    KvCodecParams params;
    params.head_dim = 64;
    params.role = role;
    for (const KvCodecInfo* info : {&kQ8_0KvCodec, &kQ4_0KvCodec}) {
      auto codec = info->make(info->id, params);
      ASSERT_TRUE(codec.ok());
      AlignedBuffer<std::byte> page((*codec)->PageBytes());
      (*codec)->EncodePage(x.data(), 1, page.data());
      float y[64];
      (*codec)->DecodePage(page.data(), 1, y);
      const bool q8 = info == &kQ8_0KvCodec;
      for (int i = 0; i < 64; ++i) {
        const float scale = F16ToF32(q8 ? kQ8Scales[i / 32] : kQ4Scales[i / 32]);
        EXPECT_EQ(y[i], scale * static_cast<float>(q8 ? kQ8Codes[i] : kQ4Codes[i] - 8)) << i;
      }
    }
  }
}

// Mean squared error of rotated Gaussian rows over their variance.
double GaussianError(const KvCodecInfo& info, int head_dim) {
  KvCodecParams params;
  params.head_dim = head_dim;
  params.role = KvRole::kValue;
  auto codec = info.make(info.id, params);
  if (!codec.ok()) return 1e9;
  AlignedBuffer<std::byte> page((*codec)->PageBytes());
  Rng rng(5);
  double error = 0, total = 0;
  std::vector<float> x(kPageTokens * head_dim), y(x.size());
  for (int p = 0; p < 16; ++p) {
    for (float& v : x) v = static_cast<float>(rng.Normal());
    (*codec)->EncodePage(x.data(), kPageTokens, page.data());
    (*codec)->DecodePage(page.data(), kPageTokens, y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      error += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
      total += static_cast<double>(x[i]) * x[i];
    }
  }
  return error / total;
}

// The bounds the codecs' own files state: measured over many rows, and 4 % for the sample here.
TEST(IntCodec, SearchedScalesReachTheStatedErrorOnGaussianRows) {
  EXPECT_LE(GaussianError(kQ4HeadKvCodec, 64), 0.0086);
  EXPECT_LE(GaussianError(kQ4HeadKvCodec, 128), 0.0098);
  EXPECT_LE(GaussianError(kQ3HeadKvCodec, 64), 0.033);
  EXPECT_LE(GaussianError(kQ3HeadKvCodec, 128), 0.0365);
  RecordProperty("q4_head_64", std::to_string(GaussianError(kQ4HeadKvCodec, 64)));
  RecordProperty("q4_head_128", std::to_string(GaussianError(kQ4HeadKvCodec, 128)));
  RecordProperty("q3_head_64", std::to_string(GaussianError(kQ3HeadKvCodec, 64)));
  RecordProperty("q3_head_128", std::to_string(GaussianError(kQ3HeadKvCodec, 128)));
  RecordProperty("q4_0_64", std::to_string(GaussianError(kQ4_0KvCodec, 64)));
  RecordProperty("q8_0_64", std::to_string(GaussianError(kQ8_0KvCodec, 64)));
}

TEST(IntCodec, SearchedScalesKeepAnOutlierThatRotationCannotSpread) {
  // 63 zeros and one number: the best grid puts the number on a level, here -8 times the scale.
  float x[64] = {};
  x[11] = 3.0f;
  uint16_t scale;
  int16_t codes[64];
  QuantizeSearched4(x, 64, &scale, codes);
  EXPECT_NEAR(F16ToF32(scale) * static_cast<float>(codes[11] - 8), 3.0f, 3.0f / 32);
  for (int i = 0; i < 64; ++i) {
    if (i != 11) {
      EXPECT_EQ(codes[i], 8);
    }
  }
}

TEST(IntKernels, TilesUnpackToWhatWasPackedAtEveryWidth) {
  Rng rng(1);
  for (int bits : {3, 4, 8}) {
    const IntPageShape shape(KvRole::kValue, 64, bits, 64);
    int16_t in[kMaxTileSteps][32], out[kMaxTileSteps][32];
    for (int s = 0; s < shape.group / 2; ++s) {
      for (int16_t& c : in[s]) {
        c = static_cast<int16_t>(rng.Below(1u << bits)) - (bits == 8 ? 128 : 0);
      }
    }
    std::vector<std::byte> tile(shape.tile_bytes);
    EXPECT_EQ(shape.tile_bytes * 8, 16 * shape.group * bits) << "no bit unused";
    PackTile(bits, in, tile.data());
    UnpackTile(bits, tile.data(), out);
    for (int s = 0; s < shape.group / 2; ++s) {
      EXPECT_EQ(std::memcmp(in[s], out[s], sizeof(in[s])), 0) << bits << " bits, step " << s;
    }
  }
}

// The sums are integers and the search adds in a fixed order, so pages must not depend on the CPU
// they were written on, and results only in the last float operations.
TEST(IntKernels, PagesHaveTheSameBytesAtEveryCpuLevel) {
  for (const KvCodecInfo* info :
       {&kQ8_0hKvCodec, &kQ4_0hKvCodec, &kQ4HeadKvCodec, &kQ3HeadKvCodec}) {
    for (int head_dim : {64, 80, 128}) {
      KvCodecParams params;
      params.head_dim = head_dim;
      auto codec = info->make(info->id, params);
      ASSERT_TRUE(codec.ok());
      Rng rng(9);
      std::vector<float> x(kPageTokens * head_dim);
      for (float& v : x) v = static_cast<float>(rng.Normal() * std::exp(rng.Normal()));
      std::vector<std::byte> first;
      for (CpuLevel level : AvailableCpuLevels()) {
        ASSERT_TRUE(SetCpuLevel(level).ok());
        std::vector<float> rotated = x;
        (*codec)->Rotate(rotated.data(), kPageTokens);
        AlignedBuffer<std::byte> page((*codec)->PageBytes());
        (*codec)->EncodePage(rotated.data(), kPageTokens, page.data());
        if (first.empty()) first.assign(page.data(), page.data() + page.size());
        EXPECT_EQ(std::memcmp(first.data(), page.data(), page.size()), 0)
            << info->id << ", head size " << head_dim << ", " << CpuLevelName(level);
      }
    }
  }
  ASSERT_TRUE(SetCpuLevel("auto").ok());
}

// A long tail of small weights must not vanish: each is rounded, and dropped only below 1/65534 of
// the largest weight times scale of the page.
TEST(IntKernels, SmallWeightsAreDroppedOnlyBelowTheStatedShare) {
  KvCodecParams params;
  params.head_dim = 64;
  params.role = KvRole::kValue;
  auto codec = kQ4HeadKvCodec.make("q4_head", params);
  ASSERT_TRUE(codec.ok());
  std::vector<float> x(kPageTokens * 64, 0.875f);  // grid 0.125 * (-7): exact
  AlignedBuffer<std::byte> page((*codec)->PageBytes());
  (*codec)->EncodePage(x.data(), kPageTokens, page.data());
  std::vector<float> y(x.size());
  (*codec)->DecodePage(page.data(), kPageTokens, y.data());
  for (CpuLevel level : AvailableCpuLevels()) {
    ASSERT_TRUE(SetCpuLevel(level).ok());
    for (float small : {1.0f / 30000, 1.0f / 70000}) {
      std::vector<float> weight(kPageTokens, small);
      weight[40] = 1.0f;
      std::vector<float> out(64, 0.0f);
      (*codec)->AccumulatePage(weight.data(), 1, page.data(), kPageTokens, out.data());
      const float tail = 127 * std::round(small * 32767) / 32767;
      for (int d = 0; d < 64; ++d) EXPECT_NEAR(out[d], y[d] * (1 + tail), 1e-6) << small;
      EXPECT_EQ(tail == 0, small < 1.0f / 65534);
    }
  }
  ASSERT_TRUE(SetCpuLevel("auto").ok());
}

// Against the definition: H[i][j] = (-1)^popcount(i & j) / sqrt(n) on each block.
TEST(Hadamard, EqualsTheSylvesterMatrixOnEveryBlock) {
  for (int head_dim : {1, 2, 8, 12, 16, 40, 64, 80, 96, 128, 256, 512}) {
    const int block = HadamardBlock(head_dim);
    EXPECT_EQ(head_dim % block, 0);
    EXPECT_EQ(head_dim / block % 2, 1);
    Rng rng(3);
    std::vector<float> x(2 * head_dim);
    for (float& v : x) v = static_cast<float>(rng.Normal());
    for (CpuLevel level : AvailableCpuLevels()) {
      ASSERT_TRUE(SetCpuLevel(level).ok());
      std::vector<float> y = x;
      HadamardRows(y.data(), 2, head_dim);
      for (int i = 0; i < 2 * head_dim; ++i) {
        const int base = i / block * block;
        double sum = 0;
        for (int j = 0; j < block; ++j) {
          sum += __builtin_parity((i - base) & j) != 0 ? -x[base + j] : x[base + j];
        }
        // Nine additions of numbers below 5, each rounded by 2^-24.
        EXPECT_NEAR(y[i], sum / std::sqrt(block), 1e-5) << "head size " << head_dim << ", " << i;
      }
    }
  }
  ASSERT_TRUE(SetCpuLevel("auto").ok());
}

}  // namespace
}  // namespace phasor
