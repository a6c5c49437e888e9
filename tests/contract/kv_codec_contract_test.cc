// One body for every codec of the table, over roles, head sizes and CPU levels.
//
// The cases come from the table: a new line there is tested here with no change to this file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/file.h"
#include "base/rng.h"
#include "registry/kv_codec_table.h"
#include "simd/cpu.h"

namespace phasor {
namespace {

// Squared error of a plain b-bit code of Gaussian numbers: 2^b steps over +-3.5 deviations have
// (7 / 2^b)^2 / 12 = 4.1 * 4^-b; half as much again for codecs that spend bits on a circle.
constexpr double kGaussianFactor = 6.1;
// The same against the largest number: (2 * max / 2^b)^2 / 12, and half as much again.
constexpr double kOutlierFactor = 0.5;
// Kernels may round queries, weights and tables by a quarter of what the codes lose (root mean
// square): together that is sqrt(1 + 1/16), 3 % more error than exact arithmetic. Only unlucky
// pages come near; why that much is allowed: docs/log.md, "Are second passes needed?".
constexpr double kKernelShare = 0.25;
// Float sums of up to 256 products: relative error below 256 * 2^-24 in the worst case.
constexpr double kFloatRounding = 1.6e-5;

constexpr int kHeadDims[] = {64, 80, 96, 128, 256};
constexpr int kTokenCounts[] = {1, 2, 15, 16, 17, 127, 128};
constexpr int kQueryCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 12};

using Rows = std::vector<float>;

// Bits of a code without metadata; for floating point rows the bits of the significand.
int CodeBits(const KvCodecInfo& info) {
  const std::string id = info.id;
  if (id == "f32") return 24;
  if (id == "f16") return 11;
  if (id == "bf16") return 8;
  return static_cast<int>(info.nominal_bits_128);
}

double GaussianBound(const KvCodecInfo& info) {
  return kGaussianFactor * std::pow(4.0, -CodeBits(info));
}

Rows Gaussian(int n_rows, int head_dim, uint64_t seed) {
  Rng rng(seed);
  Rows x(static_cast<std::size_t>(n_rows) * head_dim);
  for (float& v : x) v = static_cast<float>(rng.Normal());
  return x;
}

// Two channels twenty times as large as the rest and with a mean, as keys have them.
Rows WithOutliers(int n_rows, int head_dim, uint64_t seed) {
  Rows x = Gaussian(n_rows, head_dim, seed);
  for (int t = 0; t < n_rows; ++t) {
    x[t * head_dim + 3] = 20.0f + 2.0f * x[t * head_dim + 3];
    x[t * head_dim + head_dim - 5] *= 20.0f;
  }
  return x;
}

double MeanSquare(const float* x, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum / static_cast<double>(n);
}

bool AllFinite(const Rows& x) {
  return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
}

using Bytes = AlignedBuffer<std::byte>;

struct Subject {
  const KvCodecInfo* info;
  KvCodecParams params;
  std::unique_ptr<KvCodec> codec;
  int dim() const { return params.head_dim; }

  Bytes Encode(const Rows& x, uint8_t garbage = 0x5a) const {
    Bytes page(codec->PageBytes());
    std::memset(page.data(), garbage, page.size());
    codec->EncodePage(x.data(), static_cast<int>(x.size()) / dim(), page.data());
    return page;
  }
  Rows Decode(const Bytes& page, int n_tokens) const {
    Rows x(static_cast<std::size_t>(n_tokens) * dim(), -1e9f);
    codec->DecodePage(page.data(), n_tokens, x.data());
    return x;
  }
  Rows Score(const Rows& q, const Bytes& page, int n_tokens) const {
    const int g = static_cast<int>(q.size()) / dim();
    Bytes prepared(codec->PreparedQueryBytes(g));
    std::memset(prepared.data(), 0x5a, prepared.size());
    codec->PrepareQuery(q.data(), g, prepared.data());
    Rows score(static_cast<std::size_t>(g) * kPageTokens, -1e9f);
    codec->ScorePage(prepared.data(), g, page.data(), n_tokens, score.data());
    return score;
  }
};

KvCodecParams Params(int head_dim, KvRole role) {
  KvCodecParams params;
  params.head_dim = head_dim;
  params.n_rot = head_dim > 0 ? head_dim / 2 * 2 : 0;
  params.role = role;
  return params;
}

class KvCodecContract : public ::testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { ASSERT_TRUE(SetCpuLevel("auto").ok()); }

  // Calls fn for every role and head size the codec takes; refusals must be kUnsupported.
  void ForEachShape(const std::function<void(const Subject&)>& fn) {
    int n_made = 0;
    for (KvRole role : {KvRole::kKey, KvRole::kValue}) {
      for (int head_dim : kHeadDims) {
        Subject subject{FindKvCodec(GetParam()), Params(head_dim, role), nullptr};
        ASSERT_NE(subject.info, nullptr);
        auto made = MakeKvCodec(GetParam(), subject.params);
        if (!made.ok()) {
          EXPECT_EQ(made.status().code(), StatusCode::kUnsupported) << made.status().message();
          continue;
        }
        subject.codec = std::move(made).value();
        SCOPED_TRACE(testing::Message()
                     << (role == KvRole::kKey ? "keys" : "values") << ", head size " << head_dim);
        fn(subject);
        ++n_made;
      }
    }
    EXPECT_GE(n_made, 2) << "the codec takes hardly any head size of common models";
  }

  void ForEachLevel(const std::function<void(const Subject&)>& fn) {
    for (CpuLevel level : AvailableCpuLevels()) {
      ASSERT_TRUE(SetCpuLevel(level).ok());
      SCOPED_TRACE(CpuLevelName(level));
      ForEachShape(fn);
    }
  }
};

// Squared error of the stored rows against what each row allows: a fixed error, and a share of the
// square of its largest number.
void ExpectRoundTrip(const Subject& s, Rows x, double gaussian_bound, double outlier_factor) {
  const int n = static_cast<int>(x.size()) / s.dim();
  s.codec->Rotate(x.data(), n);
  const Rows y = s.Decode(s.Encode(x), n);
  double error = 0, allowed = 0;
  for (int t = 0; t < n; ++t) {
    double largest = 0;
    for (int d = 0; d < s.dim(); ++d) {
      const double v = x[t * s.dim() + d], e = v - y[t * s.dim() + d];
      largest = std::max(largest, std::fabs(v));
      error += e * e / s.dim();
    }
    allowed += gaussian_bound + outlier_factor * largest * largest;
  }
  EXPECT_LE(error, allowed) << "mean squared error " << error / n;
}

TEST_P(KvCodecContract, RoundTripErrorIsWhatTheBitsAllow) {
  ForEachLevel([](const Subject& s) {
    const double step = std::pow(4.0, -CodeBits(*s.info));
    ExpectRoundTrip(s, Gaussian(kPageTokens, s.dim(), 1), GaussianBound(*s.info), 0);
    ExpectRoundTrip(s, WithOutliers(kPageTokens, s.dim(), 2), 0, kOutlierFactor * step);
    for (int n : kTokenCounts) {  // few rows may be unlucky ones: both allowances
      ExpectRoundTrip(s, Gaussian(n, s.dim(), 3 + n), GaussianBound(*s.info),
                      kOutlierFactor * step);
    }
  });
}

// What kernels may add to one score: see kKernelShare and kFloatRounding.
double AllowedKernelError(const Subject& s, double norm, double mean_square) {
  return kKernelShare * std::sqrt(GaussianBound(*s.info) * mean_square) * norm +
         kFloatRounding * norm * std::sqrt(mean_square * s.dim());
}

void ExpectScores(const Subject& s, const Rows& keys, int n, int g, uint64_t seed) {
  const int dim = s.dim();
  const Bytes page = s.Encode(Rows(keys.begin(), keys.begin() + static_cast<long>(n) * dim));
  const Rows k = s.Decode(page, n), q = Gaussian(g, dim, seed);
  const Rows score = s.Score(q, page, n);
  const double mean_square = MeanSquare(k.data(), k.size());
  for (int i = 0; i < g; ++i) {
    double square = 0, worst = 0;
    const double norm = std::sqrt(MeanSquare(&q[i * dim], dim) * dim);
    for (int t = 0; t < n; ++t) {
      double dot = 0;
      for (int d = 0; d < dim; ++d) dot += static_cast<double>(q[i * dim + d]) * k[t * dim + d];
      const double e = std::fabs(dot - score[i * kPageTokens + t]);
      square += e * e;
      worst = std::max(worst, e);
    }
    const double allowed = AllowedKernelError(s, norm, mean_square);
    EXPECT_LE(std::sqrt(square / n), allowed) << "n " << n << ", query " << i << " of " << g;
    EXPECT_LE(worst, 6 * allowed) << "n " << n << ", query " << i << " of " << g;
  }
}

TEST_P(KvCodecContract, ScoresEqualDecodeThenDot) {
  ForEachLevel([](const Subject& s) {
    if (s.params.role != KvRole::kKey) return;
    Rows gaussian = Gaussian(kPageTokens, s.dim(), 10);
    Rows outliers = WithOutliers(kPageTokens, s.dim(), 11);
    s.codec->Rotate(outliers.data(), kPageTokens);
    for (int n : kTokenCounts) ExpectScores(s, gaussian, n, 3, 12 + n);
    for (int g : kQueryCounts) ExpectScores(s, gaussian, kPageTokens, g, 200 + g);
    ExpectScores(s, outliers, kPageTokens, 4, 300);
  });
}

enum class Weights { kEqual, kSoftmax, kOneToken, kTinyTail, kZero };

// [g, kPageTokens]; NaN beyond n, where weights are unspecified.
Rows MakeWeights(Weights kind, int g, int n, uint64_t seed) {
  Rng rng(seed);
  Rows w(static_cast<std::size_t>(g) * kPageTokens, std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < g; ++i) {
    for (int t = 0; t < n; ++t) {
      float v = 0;
      if (kind == Weights::kEqual) v = 1.0f;
      if (kind == Weights::kSoftmax) v = static_cast<float>(std::exp(2.0 * rng.Normal() - 4.0));
      if (kind == Weights::kOneToken) v = t == (7 * i + 13) % n ? 0.25f : 0.0f;
      if (kind == Weights::kTinyTail) v = t % 32 == 0 ? 1.0f : 1e-9f;
      w[i * kPageTokens + t] = v;
    }
  }
  return w;
}

void ExpectAccumulation(const Subject& s, const Rows& values, Weights kind, int n, int g) {
  const int dim = s.dim();
  const Bytes page = s.Encode(Rows(values.begin(), values.begin() + static_cast<long>(n) * dim));
  const Rows v = s.Decode(page, n), w = MakeWeights(kind, g, n, 7 * n + g);
  const Rows before = Gaussian(g, dim, 20);  // the result is added to what is there
  Rows out = before;
  s.codec->AccumulatePage(w.data(), g, page.data(), n, out.data());
  const double mean_square = MeanSquare(v.data(), v.size());
  for (int i = 0; i < g; ++i) {
    double norm = 0, total = 0, square = 0, worst = 0;
    for (int t = 0; t < n; ++t) {
      norm += static_cast<double>(w[i * kPageTokens + t]) * w[i * kPageTokens + t];
      total += w[i * kPageTokens + t];
    }
    for (int d = 0; d < dim; ++d) {
      double sum = before[i * dim + d];
      for (int t = 0; t < n; ++t) {
        sum += static_cast<double>(w[i * kPageTokens + t]) * v[t * dim + d];
      }
      const double e = std::fabs(sum - out[i * dim + d]);
      square += e * e;
      worst = std::max(worst, e);
    }
    const double allowed = AllowedKernelError(s, std::sqrt(norm), mean_square) +
                           kFloatRounding * (1 + total * std::sqrt(mean_square));
    EXPECT_LE(std::sqrt(square / dim), allowed) << "n " << n << ", output " << i << " of " << g;
    EXPECT_LE(worst, 6 * allowed) << "n " << n << ", output " << i << " of " << g;
  }
}

TEST_P(KvCodecContract, AccumulationEqualsDecodeThenWeightedSum) {
  ForEachLevel([](const Subject& s) {
    if (s.params.role != KvRole::kValue) return;
    const Rows values = Gaussian(kPageTokens, s.dim(), 30);
    for (int n : kTokenCounts) ExpectAccumulation(s, values, Weights::kSoftmax, n, 3);
    for (int g : kQueryCounts) {
      ExpectAccumulation(s, values, Weights::kSoftmax, kPageTokens, g);
    }
    for (Weights kind : {Weights::kEqual, Weights::kOneToken, Weights::kTinyTail, Weights::kZero}) {
      ExpectAccumulation(s, values, kind, kPageTokens, 4);
      ExpectAccumulation(s, values, kind, kPageTokens, 1);
    }
  });
}

TEST_P(KvCodecContract, CpuLevelsAgreeOnRowsScoresAndSums) {
  ForEachShape([](const Subject& s) {
    const Rows x = WithOutliers(100, s.dim(), 40), q = Gaussian(3, s.dim(), 41);
    const Rows w = MakeWeights(Weights::kSoftmax, 3, 100, 42);
    Rows decoded, result;
    for (CpuLevel level : AvailableCpuLevels()) {
      ASSERT_TRUE(SetCpuLevel(level).ok());
      SCOPED_TRACE(CpuLevelName(level));
      Rows stored = x, y, r(3 * s.dim(), 0.0f);
      s.codec->Rotate(stored.data(), 100);
      const Bytes page = s.Encode(stored);
      y = s.Decode(page, 100);
      if (s.params.role == KvRole::kKey) r = s.Score(q, page, 100);
      if (s.params.role == KvRole::kValue) {
        s.codec->AccumulatePage(w.data(), 3, page.data(), 100, r.data());
      }
      if (level == CpuLevel::kScalar) {
        decoded = y;
        result = r;
      }
      // A number on the edge between two codes may fall either way: one step of the largest number.
      const double step = 4.0 * std::pow(2.0, -CodeBits(*s.info)) + 1e-6;
      for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], decoded[i], 60 * step) << i;
      double difference = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        difference += std::fabs(static_cast<double>(y[i]) - decoded[i]);
      }
      // ... and nearly all fall the same way.
      EXPECT_LE(difference / static_cast<double>(y.size()), 0.01 * step);
      const double mean_square = MeanSquare(decoded.data(), decoded.size());
      const bool key = s.params.role == KvRole::kKey;
      const double allowed = 6 * AllowedKernelError(s, key ? std::sqrt(s.dim()) : 10, mean_square);
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < (key ? 100 : s.dim()); ++j) {
          const int at = i * (key ? kPageTokens : s.dim()) + j;
          EXPECT_NEAR(r[at], result[at], allowed) << "query " << i << ", place " << j;
        }
      }
    }
  });
}

TEST_P(KvCodecContract, PageBytesAreWhatTheTableSays) {
  ForEachShape([](const Subject& s) {
    const double bits = 8.0 * static_cast<double>(s.codec->PageBytes()) / kPageTokens / s.dim();
    // Metadata of a page (offsets, flags) may add up to 64 bytes that the figure leaves out.
    const double slack = 64.0 * 8 / kPageTokens / s.dim() + 1e-9;
    if (s.dim() == 64) {
      EXPECT_NEAR(bits, s.info->nominal_bits_64, slack);
    }
    if (s.dim() == 128) {
      EXPECT_NEAR(bits, s.info->nominal_bits_128, slack);
    }
    // Other sizes may pad, by less than half a bit.
    EXPECT_LE(bits, std::max(s.info->nominal_bits_64, s.info->nominal_bits_128) + slack + 0.5);
    EXPECT_EQ(s.codec->PageBytes() % 16, 0u);
  });
}

TEST_P(KvCodecContract, EveryByteOfAPageIsWrittenAndEncodingIsDeterministic) {
  ForEachLevel([](const Subject& s) {
    for (int n : kTokenCounts) {
      const Rows x = Gaussian(n, s.dim(), 50 + n);
      const Bytes a = s.Encode(x, 0x00), b = s.Encode(x, 0xff), c = s.Encode(x, 0xff);
      EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size()), 0) << n << " tokens";
      EXPECT_EQ(std::memcmp(b.data(), c.data(), b.size()), 0) << n << " tokens";
    }
  });
}

TEST_P(KvCodecContract, ConstantAndZeroRowsAreStoredSafely) {
  ForEachLevel([](const Subject& s) {
    for (float value : {0.0f, 1.0f, -3.25f, 1e-20f}) {
      const Rows x(static_cast<std::size_t>(kPageTokens) * s.dim(), value);
      const Rows y = s.Decode(s.Encode(x), kPageTokens);
      ASSERT_TRUE(AllFinite(y));
      const double allowed = std::fabs(value) * 4 * std::pow(2.0, -CodeBits(*s.info)) + 1e-6;
      for (float v : y) ASSERT_NEAR(v, value, allowed);
    }
  });
}

TEST_P(KvCodecContract, HostileNumbersStayFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::vector<float>> kinds = {{nan},
                                                 {inf},
                                                 {-inf},
                                                 {1e30f, -1e30f},
                                                 {1e-40f, -1e-42f},
                                                 {nan, inf, -inf, 1.0f, 3e38f, 1e-45f},
                                                 {65504.0f, 65520.0f, -70000.0f}};
  ForEachLevel([&](const Subject& s) {
    for (const std::vector<float>& kind : kinds) {
      for (std::size_t stride : {std::size_t{1}, std::size_t{37}}) {
        Rows x = Gaussian(kPageTokens, s.dim(), 60);
        for (std::size_t i = 0; i < x.size(); i += stride) x[i] = kind[i % kind.size()];
        const Bytes page = s.Encode(x);
        EXPECT_TRUE(AllFinite(s.Decode(page, kPageTokens))) << kind[0];
        // Rotating first may turn infinities into NaN, which must be caught as well.
        s.codec->Rotate(x.data(), kPageTokens);
        EXPECT_TRUE(AllFinite(s.Decode(s.Encode(x), kPageTokens))) << kind[0];
        if (s.params.role == KvRole::kKey) {
          s.Score(Gaussian(2, s.dim(), 61), page, kPageTokens);  // must not trap
        }
      }
    }
  });
}

TEST_P(KvCodecContract, AnInfinityIsStoredAsTheLargest16BitNumberAndNanAsZero) {
  ForEachLevel([](const Subject& s) {
    Rows x = Gaussian(kPageTokens, s.dim(), 65);
    x[5] = std::numeric_limits<float>::infinity();
    x[9] = std::numeric_limits<float>::quiet_NaN();
    const Rows y = s.Decode(s.Encode(x), kPageTokens);
    const double step = 65504.0 * 4 * std::pow(2.0, -CodeBits(*s.info));
    EXPECT_NEAR(y[5], 65504.0, step);
    EXPECT_NEAR(y[9], 0.0, step);
  });
}

TEST_P(KvCodecContract, RotateThenUnrotateIsTheIdentityAndKeepsLengths) {
  // log2(256) = 8 stages of rounding, each 2^-24 of the row's norm.
  constexpr double kRotationRounding = 8 * 0x1p-24 * 20;
  ForEachLevel([](const Subject& s) {
    const Rows x = Gaussian(5, s.dim(), 70);
    Rows y = x;
    s.codec->Rotate(y.data(), 5);
    EXPECT_EQ(s.codec->HasRotation(), y != x);
    EXPECT_NEAR(MeanSquare(x.data(), x.size()), MeanSquare(y.data(), y.size()), 1e-5);
    s.codec->Unrotate(y.data(), 5);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], kRotationRounding);
  });
}

TEST_P(KvCodecContract, RowCodecsAppendOneByOneAsInBulk) {
  ForEachLevel([](const Subject& s) {
    const auto* row = dynamic_cast<const RowKvCodec*>(s.codec.get());
    auto made = MakeRowKvCodec(s.info->id, s.params);
    EXPECT_EQ(made.ok(), row != nullptr);
    if (row == nullptr) return;
    const Rows x = WithOutliers(kPageTokens, s.dim(), 80);
    const Bytes bulk = s.Encode(x);
    Bytes single = s.Encode(Rows(s.dim(), 0.0f));
    for (int t = 0; t < kPageTokens; ++t) {
      row->EncodeRows(&x[static_cast<std::size_t>(t) * s.dim()], t, 1, single.data());
    }
    EXPECT_EQ(std::memcmp(bulk.data(), single.data(), bulk.size()), 0);
    Bytes pieces = s.Encode(Rows(s.dim(), 0.0f));
    row->EncodeRows(x.data(), 0, 100, pieces.data());
    row->EncodeRows(&x[static_cast<std::size_t>(100) * s.dim()], 100, 28, pieces.data());
    EXPECT_EQ(std::memcmp(bulk.data(), pieces.data(), bulk.size()), 0);
  });
}

TEST_P(KvCodecContract, AnyHeadSizeIsTakenOrRefusedWithAStatus) {
  for (KvRole role : {KvRole::kKey, KvRole::kValue}) {
    for (int head_dim : {-1, 0, 1, 2, 7, 33, 40, 65, 72, 100, 112, 192, 1 << 20}) {
      SCOPED_TRACE(head_dim);
      Subject s{FindKvCodec(GetParam()), Params(head_dim, role), nullptr};
      auto made = MakeKvCodec(GetParam(), s.params);
      if (!made.ok()) {
        EXPECT_EQ(made.status().code(), StatusCode::kUnsupported);
        EXPECT_FALSE(made.status().message().empty());
        continue;
      }
      ASSERT_GT(head_dim, 0);
      s.codec = std::move(made).value();
      for (CpuLevel level : AvailableCpuLevels()) {
        ASSERT_TRUE(SetCpuLevel(level).ok());
        SCOPED_TRACE(CpuLevelName(level));
        const Rows x = Gaussian(kPageTokens, head_dim, 90);
        ExpectRoundTrip(s, x, GaussianBound(*s.info), 0);
        if (role == KvRole::kKey) ExpectScores(s, x, 127, 5, 91);
        if (role == KvRole::kValue) ExpectAccumulation(s, x, Weights::kSoftmax, 127, 5);
      }
    }
  }
}

std::vector<std::string> Ids() {
  std::vector<std::string> ids;
  for (const KvCodecInfo& info : KvCodecs()) ids.push_back(info.id);
  return ids;
}

std::string TestName(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Table, KvCodecContract, testing::ValuesIn(Ids()), TestName);

TEST(KvCodecTable, IdsAreUniqueAndEntriesComplete) {
  std::vector<std::string> ids = Ids();
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
  for (const KvCodecInfo& info : KvCodecs()) {
    SCOPED_TRACE(info.id);
    EXPECT_EQ(FindKvCodec(info.id), &info);
    EXPECT_FALSE(std::string(info.summary).empty());
    EXPECT_FALSE(std::string(info.source).empty());
    EXPECT_TRUE(info.for_keys || info.for_values);
    EXPECT_GT(info.nominal_bits_64, 0);
    EXPECT_GT(info.nominal_bits_128, 0);
    EXPECT_NE(info.make, nullptr);
  }
}

TEST(KvCodecTable, AnUnknownIdIsRefusedWithTheIdsThatFitTheRole) {
  for (KvRole role : {KvRole::kKey, KvRole::kValue}) {
    auto made = MakeKvCodec("q4_9", Params(64, role));
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(made.status().message().find("q4_9"), std::string::npos);
    for (const KvCodecInfo& info : KvCodecs()) {
      if (role == KvRole::kKey ? info.for_keys : info.for_values) {
        EXPECT_NE(made.status().message().find(info.id), std::string::npos) << info.id;
      }
    }
  }
  EXPECT_EQ(MakeRowKvCodec("q4_9", Params(64, KvRole::kKey)).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(KvCodecTable, ACodecThatCannotHoldTheRoleIsUnsupported) {
  for (const KvCodecInfo& info : KvCodecs()) {
    for (KvRole role : {KvRole::kKey, KvRole::kValue}) {
      if (role == KvRole::kKey ? info.for_keys : info.for_values) continue;
      EXPECT_EQ(MakeKvCodec(info.id, Params(64, role)).status().code(), StatusCode::kUnsupported)
          << info.id;
    }
  }
}

bool IsNamePart(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// A codec file that nobody listed would be dead code that no test sees.
TEST(KvCodecTable, EveryCodecInTheFolderIsListed) {
  const std::string source_dir = PHASOR_SOURCE_DIR;
  auto table = ReadFile(source_dir + "/src/registry/kv_codec_table.cc");
  ASSERT_TRUE(table.ok()) << table.status().message();
  const std::string prefix = "const KvCodecInfo k";
  std::size_t n_found = 0;
  for (const auto& file : std::filesystem::directory_iterator(source_dir + "/src/kvcodec")) {
    if (file.path().extension() != ".cc") continue;
    auto text = ReadFile(file.path().string());
    ASSERT_TRUE(text.ok()) << text.status().message();
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind("extern ", 0) == 0) line.erase(0, 7);
      if (line.rfind(prefix, 0) != 0) continue;
      std::size_t end = prefix.size();
      while (end < line.size() && IsNamePart(line[end])) ++end;
      const std::string name = line.substr(prefix.size() - 1, end - prefix.size() + 1);
      EXPECT_NE(table->find("\n      " + name + ","), std::string::npos)
          << file.path() << " defines " << name << ", which the table does not list";
      ++n_found;
    }
  }
  EXPECT_EQ(n_found, KvCodecs().size());
}

}  // namespace
}  // namespace phasor
