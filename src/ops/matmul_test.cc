#include "ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "ops/matmul_kernels.h"
#include "ops/matmul_reference.h"
#include "registry/weight_codec_table.h"
#include "simd/cpu.h"
#include "tensor/half.h"

namespace phasor {
namespace {

// Worst case of a float sum: each of the n_terms additions may lose half a unit of the total
// magnitude; scalar code rounds the product too, and scales are products of up to three floats.
double SumTolerance(int64_t n_terms, double magnitude) {
  return static_cast<double>(3 * n_terms + 8) * 0x1.0p-24 * magnitude;
}
// Float activations and float weights: the errors of hundreds of terms partly cancel.
constexpr double kFloatTolerance = 1e-5;

void PutF16(std::byte* at, float value) {
  uint16_t bits = F32ToF16(value);
  std::memcpy(at, &bits, sizeof(bits));
}

// Offsets of the f16 factors in a block of an integer format.
std::vector<int> F16Fields(DType dtype) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

// Random bytes (every code and sub-scale can occur) with f16 factors of the size models have.
std::vector<std::byte> RandomWeights(const WeightCodecInfo& codec, int64_t n_rows, int64_t n_cols,
                                     Rng& rng) {
  std::vector<std::byte> data(static_cast<std::size_t>(n_rows * RowBytes(codec.dtype, n_cols)));
  const DTypeInfo& type = GetDTypeInfo(codec.dtype);
  if (codec.is_float) {
    for (int64_t i = 0; i < n_rows * n_cols; ++i) {
      float w = static_cast<float>(rng.Normal() * 0.05);
      uint16_t half = codec.dtype == DType::kF16 ? F32ToF16(w) : F32ToBf16(w);
      const void* from = codec.dtype == DType::kF32 ? static_cast<const void*>(&w) : &half;
      std::memcpy(data.data() + i * type.block_bytes, from,
                  static_cast<std::size_t>(type.block_bytes));
    }
    return data;
  }
  for (std::byte& b : data) b = static_cast<std::byte>(rng.Below(256));
  for (std::size_t at = 0; at < data.size(); at += static_cast<std::size_t>(type.block_bytes)) {
    for (int field : F16Fields(codec.dtype)) {
      PutF16(&data[at + static_cast<std::size_t>(field)], static_cast<float>(rng.Normal() * 0.01));
    }
  }
  return data;
}

std::vector<float> RandomFloats(int64_t n, Rng& rng) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = static_cast<float>(rng.Normal());
  return x;
}

PackedMatrix MustPack(const WeightCodecInfo& codec, const std::vector<std::byte>& data,
                      int64_t n_rows, int64_t n_cols, MatMulPrecision precision, ThreadPool& pool) {
  auto packed = PackedMatrix::Pack(codec, data.data(), n_rows, n_cols, precision, pool);
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  return packed.ok() ? std::move(*packed) : PackedMatrix();
}

// A set of kernels: those of a level, with or without tile registers.
struct KernelSet {
  CpuLevel level;
  bool amx = false;

  void Use() const {
    ASSERT_TRUE(SetCpuLevel(level).ok());
    ASSERT_TRUE(EnableAmx(amx).ok());
  }
  std::string name() const { return CpuLevelName(level) + std::string(amx ? "_amx" : ""); }
  friend void PrintTo(const KernelSet& set, std::ostream* out) { *out << set.name(); }
};

std::vector<KernelSet> KernelSets() {
  std::vector<KernelSet> sets;
  for (CpuLevel level : AvailableCpuLevels()) sets.push_back({level});
  if (HasAmx()) sets.push_back({CpuLevel::kAvx512, true});
  return sets;
}

// All that this CPU has.
void UseBest() { KernelSet{DetectedCpuLevel(), HasAmx()}.Use(); }

// Whether a product takes kernels that round activations and weights to bfloat16.
bool RoundsToBf16(const WeightCodecInfo& codec, int n_tokens) {
  return (!codec.is_float || codec.dtype == DType::kBF16) &&
         FindManyTokensKernels(n_tokens) != nullptr;
}

// What that costs a sum at most: half a unit in the eighth bit of every weight.
double Bf16Tolerance(double magnitude) { return 1.01 * 0x1.0p-8 * magnitude; }

double Tolerance(bool is_bf16, int64_t n_terms, double magnitude) {
  return SumTolerance(n_terms, magnitude) + (is_bf16 ? Bf16Tolerance(magnitude) : 0);
}

std::vector<float> RoundedToBf16(std::vector<float> x) {
  for (float& v : x) v = Bf16ToF32(F32ToBf16(v));
  return x;
}

// Runs each test with every set this CPU has and restores level and tiles afterwards.
class MatMulTest : public ::testing::TestWithParam<KernelSet> {
 protected:
  void SetUp() override { GetParam().Use(); }
  void TearDown() override { UseBest(); }
  MatMulScratch scratch_;
};

struct Shape {
  int64_t n_rows, n_cols;
  int n_tokens;
};

// Row counts beside multiples of 16, one to many blocks, every grouping of tokens.
constexpr Shape kShapes[] = {{1, 256, 1},  {16, 256, 2},  {17, 512, 3},  {40, 768, 7},
                             {33, 256, 4}, {70, 512, 16}, {31, 768, 33}, {48, 512, 21},
                             {5, 256, 13}, {18, 512, 29}};

void ExpectMatches(const std::vector<ReferenceSum>& expected, const std::vector<float>& y,
                   int64_t n_terms, const std::string& label) {
  for (std::size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(y[i], expected[i].value, SumTolerance(n_terms, expected[i].magnitude))
        << label << " element " << i;
  }
}

TEST_P(MatMulTest, Int8ProductsEqualTheDoubleSumOverQuantizedActivations) {
  Rng rng(1);
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    if (codec->is_float) continue;
    for (const Shape& s : kShapes) {
      if (RoundsToBf16(*codec, s.n_tokens)) continue;
      ThreadPool pool(1 + s.n_tokens % 3);
      auto data = RandomWeights(*codec, s.n_rows, s.n_cols, rng);
      auto x = RandomFloats(s.n_tokens * s.n_cols, rng);
      PackedMatrix w = MustPack(*codec, data, s.n_rows, s.n_cols, MatMulPrecision::kInt8, pool);
      std::vector<float> y(static_cast<std::size_t>(s.n_tokens * s.n_rows), NAN);
      MatMulJob job{.w = &w, .y = y.data()};
      MatMul({&job, 1}, x.data(), 0, s.n_tokens, scratch_, pool);
      auto x_int8 = QuantizedActivationsReference(x.data(), s.n_cols, s.n_tokens, s.n_cols);
      auto expected = MatMulReference(*codec, data.data(), s.n_rows, s.n_cols, x_int8.data(),
                                      s.n_cols, s.n_tokens);
      ExpectMatches(expected, y, s.n_cols / kCodeBlock,
                    std::string(codec->id) + " tokens " + std::to_string(s.n_tokens));
    }
  }
}

// Tokens around multiples of 16 and 32, panels around multiples of 2 and 4, more columns than are
// decoded at once (2048), more panels than have room (1024 tiles).
constexpr Shape kManyShapes[] = {{16, 256, 20},  {17, 256, 32},   {33, 768, 33},  {49, 512, 48},
                                 {70, 256, 49},  {100, 2048, 29}, {40, 2304, 31}, {24, 4352, 65},
                                 {640, 768, 40}, {300, 2048, 27}};

TEST_P(MatMulTest, ProductsOfManyTokensRoundToBf16AndNoWorse) {
  if (FindManyTokensKernels(kManyShapes[0].n_tokens) == nullptr) {
    GTEST_SKIP() << "these kernels have none for many tokens";
  }
  Rng rng(11);
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    for (const Shape& s : kManyShapes) {
      if (codec->is_float && codec->dtype != DType::kBF16) continue;
      ThreadPool pool(1 + s.n_tokens % 3);
      auto data = RandomWeights(*codec, s.n_rows, s.n_cols, rng);
      auto x = RandomFloats(s.n_tokens * s.n_cols, rng);
      PackedMatrix w = MustPack(*codec, data, s.n_rows, s.n_cols, MatMulPrecision::kInt8, pool);
      std::vector<float> y(static_cast<std::size_t>(s.n_tokens * s.n_rows), NAN);
      MatMulJob job{.w = &w, .y = y.data()};
      MatMul({&job, 1}, x.data(), 0, s.n_tokens, scratch_, pool);
      auto expected = MatMulReference(*codec, data.data(), s.n_rows, s.n_cols,
                                      RoundedToBf16(x).data(), s.n_cols, s.n_tokens);
      // Rounding errors of weights are independent: their sum grows with the root of the terms.
      double squares = 0, terms = 0;
      std::vector<double> row, magnitude;
      for (int64_t r = 0; r < s.n_rows; ++r) {
        DecodeRowReference(*codec, data.data() + r * RowBytes(codec->dtype, s.n_cols), s.n_cols,
                           &row, &magnitude);
        for (int t = 0; t < s.n_tokens; ++t) {
          const auto i = static_cast<std::size_t>(t * s.n_rows + r);
          const double error = y[i] - expected[i].value;
          ASSERT_LE(std::abs(error), Tolerance(true, s.n_cols, expected[i].magnitude))
              << codec->id << " rows " << s.n_rows << " tokens " << s.n_tokens << " element " << i;
          squares += error * error;
          for (int64_t k = 0; k < s.n_cols; ++k) {
            const double term =
                row[static_cast<std::size_t>(k)] * x[static_cast<std::size_t>(t * s.n_cols + k)];
            terms += term * term;
          }
        }
      }
      // Half a unit is at most 2^-8 of a number, an even error has a third of its square. Weights
      // in bfloat16 are exact.
      const double most = codec->is_float ? 0x1.0p-20 : 0x1.0p-8 / std::sqrt(3.0);
      EXPECT_LE(std::sqrt(squares / terms), most) << codec->id;
    }
  }
}

TEST_P(MatMulTest, Int8ProductsStayWithinTheErrorOfEightBitActivations) {
  Rng rng(2);
  const int64_t n_rows = 20, n_cols = 512;
  const int n_tokens = 5;
  ThreadPool pool(2);
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    if (codec->is_float) continue;
    auto data = RandomWeights(*codec, n_rows, n_cols, rng);
    auto x = RandomFloats(n_tokens * n_cols, rng);
    PackedMatrix w = MustPack(*codec, data, n_rows, n_cols, MatMulPrecision::kInt8, pool);
    std::vector<float> y(static_cast<std::size_t>(n_tokens * n_rows));
    MatMulJob job{.w = &w, .y = y.data()};
    MatMul({&job, 1}, x.data(), 0, n_tokens, scratch_, pool);
    // An activation is off by at most half a step of its block: max|x| / 254.
    std::vector<float> error(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      float max = 0;
      for (std::size_t j = 0; j < kCodeBlock; ++j) {
        max = std::max(max, std::abs(x[i / kCodeBlock * kCodeBlock + j]));
      }
      error[i] = max / 254.0f * 1.0001f;
    }
    auto expected =
        MatMulReference(*codec, data.data(), n_rows, n_cols, x.data(), n_cols, n_tokens);
    std::vector<double> row, magnitude;
    for (int t = 0; t < n_tokens; ++t) {
      for (int64_t r = 0; r < n_rows; ++r) {
        DecodeRowReference(*codec, data.data() + r * RowBytes(codec->dtype, n_cols), n_cols, &row,
                           &magnitude);
        double bound = 0;
        for (int64_t k = 0; k < n_cols; ++k) {
          bound += std::abs(row[static_cast<std::size_t>(k)]) *
                   error[static_cast<std::size_t>(t * n_cols + k)];
        }
        const std::size_t i = static_cast<std::size_t>(t * n_rows + r);
        bound += SumTolerance(n_cols / kCodeBlock, expected[i].magnitude);
        ASSERT_NEAR(y[i], expected[i].value, bound) << codec->id;
      }
    }
  }
}

TEST_P(MatMulTest, ExtremeCodesAndActivationsDoNotSaturate) {
  ThreadPool pool(1);
  const int64_t n_cols = 256;
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    if (codec->is_float) continue;
    for (int fill : {0xff, 0x7f, 0x80, 0x00}) {
      std::vector<std::byte> data(static_cast<std::size_t>(16 * RowBytes(codec->dtype, n_cols)),
                                  static_cast<std::byte>(fill));
      const DTypeInfo& type = GetDTypeInfo(codec->dtype);
      for (std::size_t at = 0; at < data.size(); at += static_cast<std::size_t>(type.block_bytes)) {
        for (int field : F16Fields(codec->dtype)) {
          PutF16(&data[at + static_cast<std::size_t>(field)], 1.0f);
        }
      }
      PackedMatrix w = MustPack(*codec, data, 16, n_cols, MatMulPrecision::kInt8, pool);
      for (float sign : {1.0f, -1.0f}) {
        std::vector<float> x(40 * n_cols, 127.0f * sign), y(40 * 16);
        MatMulJob job{.w = &w, .y = y.data()};
        for (int n_tokens : {1, 6, 40}) {
          MatMul({&job, 1}, x.data(), 0, n_tokens, scratch_, pool);
          auto expected =
              MatMulReference(*codec, data.data(), 16, n_cols, x.data(), n_cols, n_tokens);
          const bool is_bf16 = RoundsToBf16(*codec, n_tokens);
          for (std::size_t i = 0; i < expected.size(); ++i) {
            ASSERT_NEAR(
                y[i], expected[i].value,
                Tolerance(is_bf16, is_bf16 ? n_cols : n_cols / kCodeBlock, expected[i].magnitude))
                << codec->id << " fill " << fill << " tokens " << n_tokens;
          }
        }
      }
    }
  }
}

TEST_P(MatMulTest, FloatWeightsAndF32PrecisionMatchDouble) {
  Rng rng(3);
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    for (const Shape& s : kShapes) {
      ThreadPool pool(1 + s.n_tokens % 3);
      // Float formats take any number of columns.
      const int64_t n_cols = codec->is_float ? s.n_cols - 250 : s.n_cols;
      auto data = RandomWeights(*codec, s.n_rows, n_cols, rng);
      auto x = RandomFloats(s.n_tokens * n_cols, rng);
      PackedMatrix w = MustPack(*codec, data, s.n_rows, n_cols, MatMulPrecision::kF32, pool);
      EXPECT_FALSE(w.is_integer());
      std::vector<float> y(static_cast<std::size_t>(s.n_tokens * s.n_rows), NAN);
      MatMulJob job{.w = &w, .y = y.data()};
      MatMul({&job, 1}, x.data(), 0, s.n_tokens, scratch_, pool);
      auto expected =
          MatMulReference(*codec, data.data(), s.n_rows, n_cols, x.data(), n_cols, s.n_tokens);
      for (std::size_t i = 0; i < y.size(); ++i) {
        ASSERT_NEAR(y[i], expected[i].value, kFloatTolerance * expected[i].magnitude)
            << codec->id << " tokens " << s.n_tokens << " element " << i;
      }
    }
  }
}

// With whole blocks of columns, which the test above does not have for float formats, and with
// others at the precision that may round.
TEST_P(MatMulTest, Bf16WeightsTakeFloatActivationsWhereTheyMustNotRound) {
  Rng rng(12);
  ThreadPool pool(2);
  const WeightCodecInfo& codec = *FindWeightCodec(DType::kBF16);
  const int64_t n_rows = 40;
  const int n_tokens = 40;
  for (auto [precision, n_cols] : {std::pair<MatMulPrecision, int64_t>{MatMulPrecision::kF32, 256},
                                   {MatMulPrecision::kInt8, 262}}) {
    auto data = RandomWeights(codec, n_rows, n_cols, rng);
    auto x = RandomFloats(n_tokens * n_cols, rng);
    PackedMatrix w = MustPack(codec, data, n_rows, n_cols, precision, pool);
    std::vector<float> y(static_cast<std::size_t>(n_tokens * n_rows), NAN);
    MatMulJob job{.w = &w, .y = y.data()};
    MatMul({&job, 1}, x.data(), 0, n_tokens, scratch_, pool);
    auto expected = MatMulReference(codec, data.data(), n_rows, n_cols, x.data(), n_cols, n_tokens);
    for (std::size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(y[i], expected[i].value, kFloatTolerance * expected[i].magnitude) << n_cols;
    }
  }
}

TEST_P(MatMulTest, SeveralJobsWithStridesBiasAndAccumulationShareOneCall) {
  Rng rng(4);
  const int64_t n_cols = 256, rows[] = {24, 5, 100};
  for (DType second : {DType::kF16, DType::kBF16}) {
    const DType types[] = {DType::kQ4_1, second, DType::kQ6_K};
    for (int n_tokens : {1, 3, 20, 40}) {
      for (int n_threads : {1, 2, 3}) {
        ThreadPool pool(n_threads);
        const int64_t ldx = n_cols + 7;
        auto x = RandomFloats(n_tokens * ldx, rng);
        std::vector<std::vector<std::byte>> data;
        std::vector<std::vector<float>> y, before, bias;
        std::vector<PackedMatrix> w;
        for (int j = 0; j < 3; ++j) {
          const WeightCodecInfo& codec = *FindWeightCodec(types[j]);
          data.push_back(RandomWeights(codec, rows[j], n_cols, rng));
          w.push_back(MustPack(codec, data.back(), rows[j], n_cols, MatMulPrecision::kInt8, pool));
          y.push_back(RandomFloats(n_tokens * (rows[j] + 3), rng));
          before.push_back(y.back());
          bias.push_back(RandomFloats(rows[j], rng));
        }
        std::vector<MatMulJob> jobs;
        for (int j = 0; j < 3; ++j) {
          jobs.push_back({.w = &w[j],
                          .y = y[j].data(),
                          .ldy = rows[j] + 3,
                          .bias = j == 1 ? nullptr : bias[j].data(),
                          .accumulate = j != 0});
        }
        MatMul(jobs, x.data(), ldx, n_tokens, scratch_, pool);
        auto x_int8 = QuantizedActivationsReference(x.data(), ldx, n_tokens, n_cols);
        auto x_bf16 = RoundedToBf16(x);
        for (int j = 0; j < 3; ++j) {
          const WeightCodecInfo& codec = *FindWeightCodec(types[j]);
          const bool is_bf16 = RoundsToBf16(codec, n_tokens);
          const bool is_int8 = !codec.is_float && !is_bf16;
          auto expected = MatMulReference(codec, data[j].data(), rows[j], n_cols,
                                          is_bf16   ? x_bf16.data()
                                          : is_int8 ? x_int8.data()
                                                    : x.data(),
                                          is_int8 ? n_cols : ldx, n_tokens);
          for (int t = 0; t < n_tokens; ++t) {
            for (int64_t r = 0; r < rows[j] + 3; ++r) {
              const std::size_t i = static_cast<std::size_t>(t * (rows[j] + 3) + r);
              if (r >= rows[j]) {
                ASSERT_EQ(y[j][i], before[j][i]) << "wrote past the rows of job " << j;
                continue;
              }
              const ReferenceSum& sum = expected[static_cast<std::size_t>(t * rows[j] + r)];
              double want = sum.value + (j == 1 ? 0 : bias[j][static_cast<std::size_t>(r)]) +
                            (j != 0 ? before[j][i] : 0);
              const double bf16 = is_bf16 ? Bf16Tolerance(sum.magnitude) : 0;
              ASSERT_NEAR(y[j][i], want,
                          SumTolerance(n_cols, sum.magnitude + std::abs(want) + 2) + bf16)
                  << j;
            }
          }
        }
      }
    }
  }
}

TEST_P(MatMulTest, ThreadCountDoesNotChangeAnyBit) {
  Rng rng(5);
  const WeightCodecInfo& codec = *FindWeightCodec(DType::kQ4_1);
  const int64_t n_rows = 200, n_cols = 1536;
  auto data = RandomWeights(codec, n_rows, n_cols, rng);
  for (int n_tokens : {1, 50}) {
    auto x = RandomFloats(n_tokens * n_cols, rng);
    std::vector<std::vector<float>> y;
    for (int n_threads : {1, 2, 3}) {
      ThreadPool pool(n_threads);
      PackedMatrix w = MustPack(codec, data, n_rows, n_cols, MatMulPrecision::kInt8, pool);
      y.emplace_back(static_cast<std::size_t>(n_tokens * n_rows));
      MatMulJob job{.w = &w, .y = y.back().data()};
      MatMul({&job, 1}, x.data(), 0, n_tokens, scratch_, pool);
    }
    EXPECT_EQ(y[0], y[1]);
    EXPECT_EQ(y[0], y[2]);
  }
}

TEST_P(MatMulTest, ZeroBlocksCountAsZeroAndNonFiniteActivationsShow) {
  Rng rng(6);
  ThreadPool pool(1);
  const WeightCodecInfo& codec = *FindWeightCodec(DType::kQ8_0);
  auto data = RandomWeights(codec, 16, 64, rng);
  PackedMatrix w = MustPack(codec, data, 16, 64, MatMulPrecision::kInt8, pool);
  for (int n_tokens : {1, 9, 40}) {
    std::vector<float> x(static_cast<std::size_t>(n_tokens) * 64, 0.0f), y(40 * 16, 1.0f);
    MatMulJob job{.w = &w, .y = y.data()};
    MatMul({&job, 1}, x.data(), 0, n_tokens, scratch_, pool);
    for (int i = 0; i < n_tokens * 16; ++i) ASSERT_EQ(y[static_cast<std::size_t>(i)], 0.0f);
    // The smallest normal and denormal numbers must not turn into infinities.
    x.assign(x.size(), 1e-38f);
    x[1] = 1e-42f;
    MatMul({&job, 1}, x.data(), 0, n_tokens, scratch_, pool);
    for (int i = 0; i < n_tokens * 16; ++i) ASSERT_EQ(y[static_cast<std::size_t>(i)], 0.0f);
    for (float bad : {NAN, std::numeric_limits<float>::infinity()}) {
      x.assign(x.size(), 1.0f);
      x[40] = bad;
      MatMul({&job, 1}, x.data(), 0, n_tokens, scratch_, pool);
      for (int i = 0; i < 16; ++i) ASSERT_TRUE(std::isnan(y[static_cast<std::size_t>(i)]));
      for (int i = 16; i < n_tokens * 16; ++i) {
        ASSERT_TRUE(std::isfinite(y[static_cast<std::size_t>(i)]));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, MatMulTest, ::testing::ValuesIn(KernelSets()),
                         [](const auto& info) { return info.param.name(); });

TEST(MatMul, EveryLevelQuantizesActivationsToTheSameBits) {
  Rng rng(7);
  const int64_t n_blocks = 50;
  const int nt = 3;
  auto x = RandomFloats(n_blocks * kCodeBlock, rng);
  for (int i = 0; i < kCodeBlock; ++i)
    x[static_cast<std::size_t>(i)] = 0.5f * static_cast<float>(i);
  x[40] = 1e-38f;
  for (int i = 96; i < 128; ++i) x[static_cast<std::size_t>(i)] = 0;
  auto quantize = [&](const MatMulKernels& kernels) {
    std::vector<std::byte> group(static_cast<std::size_t>(n_blocks * nt * kActivationBytes));
    for (int t = 0; t < nt; ++t) kernels.quantize(x.data(), n_blocks, t, nt, group.data());
    return group;
  };
  const auto expected = quantize(ScalarMatMulKernels());
  for (CpuLevel level : AvailableCpuLevels()) {
    EXPECT_EQ(quantize(MatMulKernelsFor(level)), expected) << CpuLevelName(level);
  }
}

TEST(MatMul, LevelsAgreeBitForBitOnOneBlockOfASymmetricFormat) {
  // One block has one float product, so only the integer sums could differ.
  Rng rng(8);
  ThreadPool pool(1);
  for (DType dtype : {DType::kQ4_0, DType::kQ5_0, DType::kQ8_0}) {
    const WeightCodecInfo& codec = *FindWeightCodec(dtype);
    auto data = RandomWeights(codec, 64, 32, rng);
    PackedMatrix w = MustPack(codec, data, 64, 32, MatMulPrecision::kInt8, pool);
    auto x = RandomFloats(9 * 32, rng);
    std::vector<std::vector<float>> y;
    for (const KernelSet& set : KernelSets()) {
      set.Use();
      MatMulScratch scratch;
      for (int n_tokens : {1, 9}) {
        std::vector<float> out(9 * 64, 0.0f);
        MatMulJob job{.w = &w, .y = out.data()};
        MatMul({&job, 1}, x.data(), 0, n_tokens, scratch, pool);
        out.resize(64);  // the first token is in both calls
        y.push_back(out);
      }
    }
    for (const auto& other : y) EXPECT_EQ(other, y[0]) << codec.id;
  }
  UseBest();
}

TEST(MatMul, PackedWeightsTakeAboutTheRoomOfTheFile) {
  Rng rng(9);
  ThreadPool pool(2);
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    auto data = RandomWeights(*codec, 64, 1024, rng);
    PackedMatrix w = MustPack(*codec, data, 64, 1024, MatMulPrecision::kInt8, pool);
    EXPECT_GE(w.size_bytes(), data.size() * 99 / 100) << codec->id;
    EXPECT_LE(w.size_bytes(), data.size() * 103 / 100) << codec->id;
  }
}

TEST(MatMul, PackRefusesWeightsThatAreNotFinite) {
  Rng rng(10);
  ThreadPool pool(2);
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    for (MatMulPrecision precision : {MatMulPrecision::kInt8, MatMulPrecision::kF32}) {
      for (float bad : {NAN, -std::numeric_limits<float>::infinity()}) {
        auto data = RandomWeights(*codec, 40, 512, rng);
        std::byte* row = data.data() + 37 * RowBytes(codec->dtype, 512);
        if (codec->dtype == DType::kF32) {
          std::memcpy(row + 400, &bad, sizeof(bad));
        } else if (codec->is_float) {
          uint16_t bits = codec->dtype == DType::kF16 ? F32ToF16(bad) : F32ToBf16(bad);
          std::memcpy(row + 400, &bits, sizeof(bits));
        } else {
          // Sub-scales of zero would hide nothing: NaN * 0 and infinity * 0 are NaN.
          PutF16(row + F16Fields(codec->dtype).back(), bad);
        }
        auto packed = PackedMatrix::Pack(*codec, data.data(), 40, 512, precision, pool);
        ASSERT_FALSE(packed.ok()) << codec->id;
        EXPECT_EQ(packed.status().code(), StatusCode::kDataCorrupt);
        EXPECT_NE(packed.status().message().find("row 37"), std::string::npos)
            << packed.status().message();
      }
    }
  }
}

TEST(MatMul, PackRefusesRowsThatAreNotWholeBlocks) {
  ThreadPool pool(1);
  std::vector<std::byte> data(1 << 16);
  auto pack = [&](DType dtype, int64_t n_rows, int64_t n_cols) {
    return PackedMatrix::Pack(*FindWeightCodec(dtype), data.data(), n_rows, n_cols,
                              MatMulPrecision::kInt8, pool)
        .status()
        .code();
  };
  EXPECT_EQ(pack(DType::kQ4_0, 4, 40), StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(DType::kQ6_K, 4, 128), StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(DType::kF32, 0, 64), StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(DType::kF16, 3, 5), StatusCode::kOk);
}

}  // namespace
}  // namespace phasor
