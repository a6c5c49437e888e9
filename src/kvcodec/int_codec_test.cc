#include "kvcodec/int_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/hadamard.h"
#include "kvcodec/int_kernels.h"
#include "kvcodec/kvcodec.h"
#include "kvcodec/searched_rows.h"
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

// One row of a strip; the other lanes are zero.
void QuantizeSearchedRow(const IntLevels& levels, const float* x, int n, uint16_t* scale,
                         uint8_t* codes) {
  constexpr int kLane = 5;
  std::vector<float> x_DT(static_cast<std::size_t>(n + 3) / 4 * 4 * kStripRows, 0.0f);
  std::vector<uint8_t> codes_DT(x_DT.size());
  uint16_t scales[kStripRows];
  for (int i = 0; i < n; ++i) x_DT[i * kStripRows + kLane] = x[i];
  QuantizeStrip({&levels, x_DT.data(), n, scales, codes_DT.data()});
  *scale = scales[kLane];
  for (int i = 0; i < n; ++i) codes[i] = codes_DT[i * kStripRows + kLane];
}

std::vector<float> GoldenInput() {
  std::vector<float> x(64);
  for (int i = 0; i < 64; ++i) x[i] = static_cast<float>((i * 7919) % 1000 - 500) / 97.0f;
  return x;
}

TEST(IntCodec, BlocksEqualGgml) {
  const std::vector<float> x = GoldenInput();
  for (int b = 0; b < 2; ++b) {
    uint16_t scale;
    uint8_t codes[32];
    QuantizeQ8_0(&x[32 * b], 32, &scale, codes);
    EXPECT_EQ(scale, kQ8Scales[b]);
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(static_cast<int8_t>(codes[i]), kQ8Codes[32 * b + i]) << i;
    }
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
double GaussianError(const KvCodecInfo& info, int head_dim, std::span<const uint8_t> classes = {}) {
  KvCodecParams params;
  params.classes = classes;
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
  EXPECT_LE(GaussianError(kQ4HeadKvCodec, 64), 0.0066);
  EXPECT_LE(GaussianError(kQ4HeadKvCodec, 128), 0.0076);
  EXPECT_LE(GaussianError(kQ3HeadKvCodec, 64), 0.026);
  EXPECT_LE(GaussianError(kQ3HeadKvCodec, 128), 0.030);
  RecordProperty("q4_head_64", std::to_string(GaussianError(kQ4HeadKvCodec, 64)));
  RecordProperty("q4_head_128", std::to_string(GaussianError(kQ4HeadKvCodec, 128)));
  RecordProperty("q3_head_64", std::to_string(GaussianError(kQ3HeadKvCodec, 64)));
  RecordProperty("q3_head_128", std::to_string(GaussianError(kQ3HeadKvCodec, 128)));
  RecordProperty("q4_0_64", std::to_string(GaussianError(kQ4_0KvCodec, 64)));
  RecordProperty("q8_0_64", std::to_string(GaussianError(kQ8_0KvCodec, 64)));
}

// f16 scales that give their last one or two bits to the number of a book: a step of 2^-10 (2^-9)
// of the scale at most, and half of that off.
constexpr double kScaleStep3 = 0x1p-9, kScaleStep4 = 0x1p-10;

TEST(IntCodec, AStoredRowIsAsLongAsTheRowAlongIt) {
  Rng rng(6);
  for (int bits : {3, 4}) {
    const IntLevels& levels = bits == 3 ? kLevelsSearched3 : kLevelsSearched4;
    for (int n : {16, 20, 64, 128}) {
      for (int trial = 0; trial < 50; ++trial) {
        float x[128] = {};
        for (int i = 0; i < n; ++i) x[i] = static_cast<float>(rng.Normal());
        uint16_t scale;
        uint8_t codes[128];
        QuantizeSearchedRow(levels, x, n, &scale, codes);
        const int8_t* book = levels.level + ((scale & ((1 << levels.book_bits) - 1)) << bits);
        double square = 0, product = 0;
        for (int i = 0; i < n; ++i) {
          square += static_cast<double>(x[i]) * x[i];
          product += static_cast<double>(x[i]) * F16ToF32(scale) * book[codes[i]];
        }
        EXPECT_NEAR(product / square, 1, bits == 3 ? kScaleStep3 : kScaleStep4) << n;
      }
    }
  }
}

// Weights of 8-bit codes have 15 bits: half a step of the largest product off, for each token.
void ExpectSumsOfDecodedRows(const KvCodecParams& params) {
  const auto codec = std::move(kQ4HeadKvCodec.make("q4_head", params)).value();
  Rng rng(12);
  const int D = params.head_dim, g = 3;
  std::vector<float> x(kPageTokens * D), y(x.size()), w(g * kPageTokens), out(g * D, 0.0f);
  for (float& v : x) v = static_cast<float>(rng.Normal());
  for (float& v : w) v = static_cast<float>(rng.Uniform());
  AlignedBuffer<std::byte> page(codec->PageBytes());
  codec->EncodePage(x.data(), kPageTokens, page.data());
  codec->DecodePage(page.data(), kPageTokens, y.data());
  codec->AccumulatePage(w.data(), g, page.data(), kPageTokens, out.data());
  float largest = 0;
  for (float v : y) largest = std::max(largest, std::fabs(v));
  for (int i = 0; i < g * D; ++i) {
    double sum = 0;
    for (int t = 0; t < kPageTokens; ++t) {
      sum += static_cast<double>(w[i / D * kPageTokens + t]) * y[t * D + i % D];
    }
    EXPECT_NEAR(out[i], sum, kPageTokens * 0.5 / kWeightLevels * largest) << D << ", " << i;
  }
}

TEST(IntCodec, AHeadOfValuesTakesTheWidthOfItsClass) {
  for (int head_dim : {64, 80, 128}) {
    double before = 1;
    for (const uint8_t bits : {3, 4, 8}) {
      KvCodecParams params;
      params.head_dim = head_dim;
      params.role = KvRole::kValue;
      params.classes = {&bits, 1};
      for (const KvCodecInfo* info : {&kQ4HeadKvCodec, &kQ3HeadKvCodec}) {
        const auto codec = info->make(info->id, params);
        ASSERT_TRUE(codec.ok()) << codec.status().message();
        EXPECT_EQ((*codec)->PageBytes(), kPageTokens * (head_dim * bits / 8 + 2u));
      }
      if (bits == 8) ExpectSumsOfDecodedRows(params);
      const double error = GaussianError(kQ4HeadKvCodec, head_dim, {&bits, 1});
      EXPECT_LT(error, 0.3 * before);  // 3 to 4 bits: 0.25, 4 to 8: far less
      before = error;
      params.role = KvRole::kKey;  // has no part in it
      EXPECT_EQ((*kQ3HeadKvCodec.make("q3_head", params))->PageBytes(),
                kPageTokens * (head_dim * 3 / 8 + 2u));
    }
  }
  for (const std::vector<uint8_t>& classes : {std::vector<uint8_t>{5}, {0}, {4, 4}}) {
    KvCodecParams params;
    params.head_dim = 64;
    params.role = KvRole::kValue;
    params.classes = classes;
    EXPECT_FALSE(kQ4HeadKvCodec.make("q4_head", params).ok());
  }
}

TEST(IntCodec, SearchedScalesKeepAnOutlierThatRotationCannotSpread) {
  // 63 zeros and one number: book 0 has a level 0 and the number falls on the last level.
  float x[64] = {};
  x[11] = 3.0f;
  uint16_t scale;
  uint8_t codes[64];
  QuantizeSearchedRow(kLevelsSearched4, x, 64, &scale, codes);
  const int8_t* book = kLevelsSearched4.level + 16 * (scale & 1);
  EXPECT_NEAR(F16ToF32(scale) * static_cast<float>(book[codes[11]]), 3.0f, 3.0f / 32);
  for (int i = 0; i < 64; ++i) {
    if (i != 11) {
      EXPECT_EQ(book[codes[i]], 0);
    }
  }
}

TEST(IntCodec, BooksAscendWithinTheBoundThatByteProductsNeed) {
  for (const IntLevels* levels : {&kLevelsQ4_0, &kLevelsSearched4, &kLevelsSearched3}) {
    const int n = 1 << levels->bits;
    EXPECT_LE(levels->bits + levels->book_bits, 5);
    for (int i = 0; i < n << levels->book_bits; ++i) {
      EXPECT_LE(std::abs(levels->level[i]), kMaxLevel);
      if (i % n != 0) {
        EXPECT_LT(levels->level[i - 1], levels->level[i]);
      }
    }
  }
}

// With every book, sign and size the chosen one is the best: brute force in double, up to the
// rounding of the search to whole levels (under 1 % of the error of the codes).
TEST(IntCodec, TheSearchFindsTheBestBookSignAndSize) {
  for (int bits : {3, 4}) {
    const IntLevels& levels = bits == 3 ? kLevelsSearched3 : kLevelsSearched4;
    const int n_codes = 1 << bits;
    Rng rng(bits);
    double found = 0, best_possible = 0;
    for (int trial = 0; trial < 200; ++trial) {
      float x[64];
      for (float& v : x) v = static_cast<float>(rng.Normal());
      uint16_t scale;
      uint8_t codes[64];
      QuantizeSearchedRow(levels, x, 64, &scale, codes);
      const int8_t* book = levels.level + ((scale & ((1 << levels.book_bits) - 1)) << bits);
      float top = 0;
      for (int i = 0; i < 64; ++i) {
        const double e = x[i] - static_cast<double>(F16ToF32(scale)) * book[codes[i]];
        found += e * e;
        top = std::max(top, std::fabs(x[i]));
      }
      double best = 1e9;
      for (int b = 0; b < 1 << levels.book_bits; ++b) {
        for (double reach = 0.5; reach < 1.31; reach += 0.02) {
          for (double d : {top * reach / kMaxLevel, -top * reach / kMaxLevel}) {
            double error = 0;
            for (float v : x) {
              double nearest = 1e9;
              for (int c = 0; c < n_codes; ++c) {
                nearest = std::min(nearest, std::fabs(v - d * levels.level[b * n_codes + c]));
              }
              error += nearest * nearest;
            }
            best = std::min(best, error);
          }
        }
      }
      best_possible += best;
    }
    RecordProperty("over_best_" + std::to_string(bits), std::to_string(found / best_possible));
    EXPECT_LT(found, 1.05 * best_possible) << bits << " bits";
  }
}

TEST(IntKernels, TilesUnpackToWhatWasPackedAtEveryWidth) {
  Rng rng(1);
  for (const IntLevels* levels : {&kLevelsSearched3, &kLevelsQ4_0, &kLevels8}) {
    const int bits = levels->bits;
    const IntPageShape shape(KvRole::kValue, 64, levels, 64);
    uint32_t in[kMaxTileSteps][16], out[kMaxTileSteps][16];
    for (int s = 0; s < shape.group / 4; ++s) {
      for (uint32_t& word : in[s]) {
        word = static_cast<uint32_t>(rng.NextU64()) & (((1u << bits) - 1) * 0x01010101u);
      }
    }
    std::vector<std::byte> tile(shape.tile_bytes);
    EXPECT_EQ(shape.tile_bytes * 8, 16 * shape.group * bits) << "no bit unused";
    PackTile(bits, in, tile.data());
    UnpackTile(bits, tile.data(), out);
    for (int s = 0; s < shape.group / 4; ++s) {
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

std::unique_ptr<KvCodec> MakeValues(const KvCodecInfo& info, int head_dim) {
  KvCodecParams params;
  params.head_dim = head_dim;
  params.role = KvRole::kValue;
  return std::move(info.make(info.id, params)).value();
}

// Weights of one query over a page, from flat to a single token with a tail that plain rounding to
// 8 bits would drop or double.
std::vector<float> AdversarialWeights(int kind, Rng& rng) {
  std::vector<float> w(kPageTokens);
  for (int t = 0; t < kPageTokens; ++t) {
    const double gauss = rng.Normal();
    if (kind == 0) w[t] = 1.0f;
    if (kind == 1) w[t] = t == 40 ? 1.0f : 0.001f;
    if (kind == 2) w[t] = t == 3 ? 1.0f : 0.5f / 255;
    if (kind == 3) w[t] = t == 127 ? 1.0f : 1.0f / 3000;
    if (kind == 4) w[t] = t % 2 == 0 ? 0.0019f : (t == 77 ? 1.0f : 0.0f);  // every second token
    if (kind == 5) w[t] = static_cast<float>(std::exp(2 * gauss));
    if (kind == 6) w[t] = static_cast<float>(std::exp(4 * gauss));
    if (kind == 7) w[t] = static_cast<float>(std::exp(-0.15 * t));
  }
  return w;
}
constexpr int kWeightKinds = 8;

// Sums of a page against the double sum over its decoded rows. Rounding of the weights may add to
// one page a share of what the codes lose there; over many pages it must average out: no bias.
TEST(IntKernels, RoundedWeightsHaveNoBiasAndLittleNoise) {
  for (const KvCodecInfo* info : {&kQ4HeadKvCodec, &kQ3HeadKvCodec, &kQ4_0hKvCodec}) {
    auto codec = MakeValues(*info, 64);
    for (CpuLevel level : AvailableCpuLevels()) {
      ASSERT_TRUE(SetCpuLevel(level).ok());
      for (int kind = 0; kind < kWeightKinds; ++kind) {
        SCOPED_TRACE(testing::Message()
                     << info->id << ", weights " << kind << ", " << CpuLevelName(level));
        constexpr int kHeads = 4;
        const int n_pages = level == CpuLevel::kScalar ? 10 : 80;
        Rng rng(17 + kind);
        AlignedBuffer<std::byte> page(codec->PageBytes());
        std::vector<float> x(kPageTokens * 64), y(x.size()), weight;
        double codes = 0, rounding = 0, mass = 0, mass_error = 0;
        for (int p = 0; p < n_pages; ++p) {
          // Rows have a mean of 1, which shows lost mass, and a spread of 1.
          for (float& v : x) v = static_cast<float>(1 + rng.Normal());
          codec->EncodePage(x.data(), kPageTokens, page.data());
          codec->DecodePage(page.data(), kPageTokens, y.data());
          weight.clear();
          for (int i = 0; i < kHeads; ++i) {
            const std::vector<float> w = AdversarialWeights(kind, rng);
            weight.insert(weight.end(), w.begin(), w.end());
          }
          std::vector<float> out(kHeads * 64, 0.0f);
          codec->AccumulatePage(weight.data(), kHeads, page.data(), kPageTokens, out.data());
          for (int i = 0; i < kHeads; ++i) {
            for (int d = 0; d < 64; ++d) {
              double of_x = 0, of_y = 0;
              for (int t = 0; t < kPageTokens; ++t) {
                of_x += static_cast<double>(weight[i * kPageTokens + t]) * x[t * 64 + d];
                of_y += static_cast<double>(weight[i * kPageTokens + t]) * y[t * 64 + d];
              }
              codes += (of_y - of_x) * (of_y - of_x);
              rounding += (out[i * 64 + d] - of_y) * (out[i * 64 + d] - of_y);
              mass += of_y;
              mass_error += out[i * 64 + d] - of_y;
            }
          }
        }
        RecordProperty("share_" + std::to_string(kind), std::to_string(rounding / codes));
        // Of the squared error: 5.3 % at most (int_kernels.h), and twice that for the mean of the
        // rows, which doubles their squares.
        EXPECT_LT(rounding, 0.106 * codes);
        // Sums of 128 weights in n_pages * 4 heads, each wrong by at most 6 units of 1/255 and
        // without a preferred sign.
        EXPECT_LT(std::fabs(mass_error), (level == CpuLevel::kScalar ? 0.006 : 0.002) * mass);
      }
    }
  }
  ASSERT_TRUE(SetCpuLevel("auto").ok());
}

// 15 bits for 8-bit codes: a weight is dropped only below 1/65534 of the largest.
TEST(IntKernels, WeightsOfEightBitCodesKeepFifteenBits) {
  auto codec = MakeValues(kQ8_0KvCodec, 64);
  std::vector<float> x(kPageTokens * 64, 0.875f), y(x.size());
  AlignedBuffer<std::byte> page(codec->PageBytes());
  codec->EncodePage(x.data(), kPageTokens, page.data());
  codec->DecodePage(page.data(), kPageTokens, y.data());
  for (CpuLevel level : AvailableCpuLevels()) {
    ASSERT_TRUE(SetCpuLevel(level).ok());
    for (float small : {1.0f / 30000, 1.0f / 70000}) {
      std::vector<float> weight(kPageTokens, small);
      weight[40] = 1.0f;
      std::vector<float> out(64, 0.0f);
      codec->AccumulatePage(weight.data(), 1, page.data(), kPageTokens, out.data());
      const float tail = 127 * std::round(small * 32767) / 32767;
      for (int d = 0; d < 64; ++d) EXPECT_NEAR(out[d], y[d] * (1 + tail), 1e-6) << small;
      EXPECT_EQ(tail == 0, small < 1.0f / 65534);
    }
  }
  ASSERT_TRUE(SetCpuLevel("auto").ok());
}

// Integer sums and rounding that is the same everywhere: only the last float operations may differ.
TEST(IntKernels, ScoresAndSumsAgreeBetweenLevelsToFloatRounding) {
  struct Case {
    const KvCodecInfo* info;
    std::vector<uint8_t> classes = {};
  };
  const Case cases[] = {{&kQ8_0KvCodec},       {&kQ8_0hKvCodec},  {&kQ4_0KvCodec},
                        {&kQ4_0hKvCodec},      {&kQ4HeadKvCodec}, {&kQ3HeadKvCodec},
                        {&kQ4HeadKvCodec, {8}}};
  for (const auto& [info, classes] : cases) {
    for (KvRole role : {KvRole::kKey, KvRole::kValue}) {
      for (int head_dim : {1, 16, 33, 64, 80, 96, 100, 128, 256}) {
        for (int g : {1, 2, 3, 4, 5, 6, 7, 8, 13}) {
          const int n = head_dim % 3 == 1 ? kPageTokens : 117 - g;
          SCOPED_TRACE(testing::Message()
                       << info->id << (role == KvRole::kKey ? " keys" : " values") << ", D "
                       << head_dim << ", g " << g << ", n " << n);
          KvCodecParams params;
          params.head_dim = head_dim;
          params.role = role;
          params.classes = classes;
          auto codec = std::move(info->make(info->id, params)).value();
          Rng rng(head_dim * 31 + g);
          std::vector<float> x(n * head_dim), w(g * kPageTokens), q(g * head_dim), first, decoded;
          for (float& v : x) v = static_cast<float>(rng.Normal());
          for (float& v : q) v = static_cast<float>(rng.Normal());
          // From a few large weights to flat ones, all of whose bytes are large.
          const double spread = g % 3 == 0 ? 0.05 : g % 3;
          for (float& v : w) v = static_cast<float>(std::exp(spread * rng.Normal()));
          AlignedBuffer<std::byte> page(codec->PageBytes());
          codec->EncodePage(x.data(), n, page.data());
          for (CpuLevel level : AvailableCpuLevels()) {
            ASSERT_TRUE(SetCpuLevel(level).ok());
            std::vector<float> out(role == KvRole::kKey ? g * kPageTokens : g * head_dim, 0.0f);
            std::vector<float> y(x.size());
            codec->DecodePage(page.data(), n, y.data());
            if (role == KvRole::kKey) {
              AlignedBuffer<std::byte> prepared(codec->PreparedQueryBytes(g));
              codec->PrepareQuery(q.data(), g, prepared.data());
              codec->ScorePage(prepared.data(), g, page.data(), n, out.data());
              for (int i = 0; i < g; ++i) {
                std::fill(out.begin() + i * kPageTokens + n, out.begin() + (i + 1) * kPageTokens,
                          0.0f);
              }
            } else {
              codec->AccumulatePage(w.data(), g, page.data(), n, out.data());
            }
            if (first.empty()) {
              first = out;
              decoded = y;
            }
            ASSERT_EQ(y, decoded) << CpuLevelName(level);
            float largest = 0;
            for (float v : first) largest = std::max(largest, std::fabs(v));
            for (std::size_t i = 0; i < out.size(); ++i) {
              ASSERT_NEAR(out[i], first[i], 1e-6f * largest) << CpuLevelName(level) << ", " << i;
            }
          }
        }
      }
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
