#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/kvcodec.h"
#include "kvcodec/polar.h"
#include "kvcodec/polar_codec.h"
#include "kvcodec/polar_kernels.h"
#include "tensor/half.h"
#include "tests/support/level_guard.h"

namespace phasor {
namespace {

// f32 sums of up to 128 terms and sines to 1e-6, against the sum of magnitudes.
constexpr double kScoreError = 1e-5;
// With AVX2 and AVX-512 scores are sums of integers wherever these are expected to add at most 1/8
// of what the codes lose (root mean square), as the contract of codecs allows. Single scores may be
// six deviations off.
constexpr double kKernelShare = 0.125, kDeviations = 6;
double KernelShare() {
  const CpuLevel level = ActiveCpuLevel();
  return level == CpuLevel::kAvx2 || IsAvx512(level) ? kKernelShare : 0;
}

std::unique_ptr<PolarCodec> MakeCodec(int head_dim, int n_rot, const std::vector<PolarWidth>& width,
                                      CircleCut cut = CircleCut::kLargestGap,
                                      RopePairing pairing = RopePairing::kHalfSplit) {
  KvCodecParams params;
  params.head_dim = head_dim;
  params.n_rot = n_rot;
  params.pairing = pairing;
  auto codec = PolarCodec::Make("test", params, width, cut);
  EXPECT_TRUE(codec.ok()) << codec.status().message();
  return std::unique_ptr<PolarCodec>(static_cast<PolarCodec*>(std::move(codec).value().release()));
}

std::vector<PolarWidth> AllWidths() {
  std::vector<PolarWidth> widths;
  for (uint8_t r = 1; r <= 6; ++r) {
    for (uint8_t a = 2; a <= 8; ++a) {
      if (r + a <= kMaxPolarTotalBits) widths.push_back({r, a});
    }
  }
  return widths;
}

// Random widths, so that runs of all kinds meet in one head.
std::vector<PolarWidth> RandomWidths(int n_pairs, Rng* rng) {
  const std::vector<PolarWidth> all = AllWidths();
  std::vector<PolarWidth> widths;
  for (int j = 0; j < n_pairs; ++j) widths.push_back(all[rng->Below(all.size())]);
  return widths;
}

// Keys like a model's: some pairs far from the origin, some around it, some narrow.
std::vector<float> RandomKeys(int n_tokens, int head_dim, Rng* rng) {
  std::vector<float> bias(head_dim), spread(head_dim), x;
  for (int d = 0; d < head_dim; ++d) {
    bias[d] = static_cast<float>(2 * rng->Normal() * (rng->Below(3) == 0));
    spread[d] = static_cast<float>(std::exp(rng->Normal() - 0.5));
  }
  for (int t = 0; t < n_tokens; ++t) {
    for (int d = 0; d < head_dim; ++d) {
      x.push_back(bias[d] + spread[d] * static_cast<float>(rng->Normal()));
    }
  }
  return x;
}

AlignedBuffer<std::byte> Encode(const PolarCodec& codec, const std::vector<float>& x_TD) {
  AlignedBuffer<std::byte> page(codec.PageBytes());
  std::memset(page.data(), 0xa5, codec.PageBytes());
  const int n = static_cast<int>(x_TD.size()) / codec.layout().head_dim;
  codec.EncodePage(x_TD.data(), n, page.data());
  return page;
}

std::vector<float> Decode(const PolarCodec& codec, const std::byte* page, int n_tokens) {
  std::vector<float> x(static_cast<size_t>(n_tokens) * codec.layout().head_dim, -77.0f);
  codec.DecodePage(page, n_tokens, x.data());
  return x;
}

std::vector<float> Score(const PolarCodec& codec, const std::vector<float>& q_GD, int g,
                         const std::byte* page, int n_tokens) {
  AlignedBuffer<std::byte> prepared(codec.PreparedQueryBytes(g));
  codec.PrepareQuery(q_GD.data(), g, prepared.data());
  AlignedBuffer<float> score(static_cast<size_t>(g) * kPageTokens);
  codec.ScorePage(prepared.data(), g, page, n_tokens, score.data());
  return {score.data(), score.data() + g * kPageTokens};
}

// Root mean square of what the codes of a page can be expected to add to the scores of q [D]: cells
// of r_step by an arc, 1/12 of the squares of both, of which a query meets half each.
double CodeError(const PolarCodec& codec, const std::byte* page, const float* q) {
  double square = 0;
  for (int s = 0; s < codec.layout().n_slots; ++s) {
    const PolarSlot& slot = codec.layout().slots[s];
    const PolarGrid grid = LoadPolarGrid(codec.layout(), page, s);
    double turns, r;
    PolarCellCenter(grid, slot.width, static_cast<uint16_t>((1 << slot.width.total()) - 1), &turns,
                    &r);
    const double r_step = F16ToF32(grid.r_step);
    const double arc = 6.283185307179586 * r * grid.PhiStep(slot.width);
    const double x = q[slot.dims.x], y = slot.dims.y < 0 ? 0.0 : q[slot.dims.y];
    square += (x * x + y * y) * (r_step * r_step + arc * arc) / 24;
  }
  return std::sqrt(square);
}

// Scores and decoded keys of a page against the meaning of its bytes in double.
void ExpectKernelsMatchReference(const PolarCodec& codec, const std::byte* page, int n_tokens,
                                 int g, Rng* rng) {
  const int D = codec.layout().head_dim;
  std::vector<double> reference(static_cast<size_t>(n_tokens) * D);
  ReferencePolarDecode(codec.layout(), page, n_tokens, reference.data());
  const std::vector<float> decoded = Decode(codec, page, n_tokens);
  for (int t = 0; t < n_tokens; ++t) {
    for (int d = 0; d < D; ++d) {
      // Both elements of a pair are at most r, and r is at most |x| + |y|: compare with the row.
      double size = 0;
      for (int e = 0; e < D; ++e) size = std::max(size, std::fabs(reference[t * D + e]));
      ASSERT_NEAR(decoded[t * D + d], reference[t * D + d], kScoreError * size) << t << " " << d;
    }
  }
  std::vector<float> q = RandomKeys(g, D, rng);
  const std::vector<float> score = Score(codec, q, g, page, n_tokens);
  for (int h = 0; h < g; ++h) {
    const double share = KernelShare() * CodeError(codec, page, &q[h * D]);
    double square = 0, allowed = 0;
    for (int t = 0; t < n_tokens; ++t) {
      double dot = 0, magnitude = 0;
      for (int d = 0; d < D; ++d) {
        dot += q[h * D + d] * reference[t * D + d];
        magnitude += std::fabs(q[h * D + d] * reference[t * D + d]);
      }
      const double error = score[h * kPageTokens + t] - dot;
      ASSERT_LE(std::fabs(error), kDeviations * share + kScoreError * magnitude) << h << " " << t;
      square += error * error;
      allowed += std::pow(share + kScoreError * magnitude, 2);
    }
    ASSERT_LE(square, allowed) << h;
  }
}

TEST(Polar, ScoresAndDecodedKeysEqualTheMeaningOfTheBytesAtEveryLevel) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(7);
    for (int D : {2, 8, 20, 63, 64, 80, 128, 256}) {
      for (int g : {1, 3, 4, 9}) {
        SCOPED_TRACE(std::string(CpuLevelName(level)) + " D=" + std::to_string(D) +
                     " g=" + std::to_string(g));
        auto codec = MakeCodec(D, D / 4 * 2, RandomWidths((D + 1) / 2, &rng));
        const int n_tokens = g == 3 ? kPageTokens : 1 + static_cast<int>(rng.Below(kPageTokens));
        auto page = Encode(*codec, RandomKeys(n_tokens, D, &rng));
        ExpectKernelsMatchReference(*codec, page.data(), n_tokens, g, &rng);
      }
    }
  }
}

TEST(Polar, EveryWidthWorksAtEveryLevel) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(8);
    for (PolarWidth width : AllWidths()) {
      SCOPED_TRACE(std::string(CpuLevelName(level)) + " " + std::to_string(width.r_bits) + "+" +
                   std::to_string(width.a_bits));
      auto codec = MakeCodec(16, 16, std::vector<PolarWidth>(8, width));
      auto page = Encode(*codec, RandomKeys(kPageTokens, 16, &rng));
      ExpectKernelsMatchReference(*codec, page.data(), kPageTokens, 4, &rng);
    }
  }
}

// Narrow ranges far from the origin: 16 bits of whole keys are coarser than the codes.
TEST(Polar, ScoresAreAsExactAsTheCodesWhereverThePageLies) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(16);
    for (PolarWidth width : {PolarWidth{2, 2}, PolarWidth{4, 4}, PolarWidth{3, 5}, PolarWidth{3, 7},
                             PolarWidth{4, 8}}) {
      for (double spread : {1.0, 0.1, 1e-2, 1e-3, 0.0}) {
        for (int n_wide : {0, 1, 32}) {
          SCOPED_TRACE(std::string(CpuLevelName(level)) + " " + std::to_string(width.r_bits) + "+" +
                       std::to_string(width.a_bits) + " " + std::to_string(spread) + " " +
                       std::to_string(n_wide));
          auto codec = MakeCodec(64, 64, std::vector<PolarWidth>(32, width));
          std::vector<float> keys;
          for (int i = 0; i < kPageTokens * 64; ++i) {
            const bool wide = i % 32 < n_wide;
            keys.push_back(static_cast<float>(wide ? rng.Normal() : 10 + spread * rng.Normal()));
          }
          auto page = Encode(*codec, keys);
          for (int g : {1, 4}) {
            ExpectKernelsMatchReference(*codec, page.data(), kPageTokens, g, &rng);
          }
        }
      }
    }
  }
}

#if defined(__x86_64__)
TEST(Polar, PagesAreScoredInIntegersUnlessTheyAreNarrow) {
  for (CpuLevel level : {CpuLevel::kAvx2, CpuLevel::kAvx512Vnni, CpuLevel::kAvx512}) {
    if (level > DetectedCpuLevel()) continue;
    LevelGuard guard(level);
    const auto float_score = IsAvx512(level) ? ScorePolarFloatAvx512 : ScorePolarFloatAvx2;
    Rng rng(17);
    const int D = 64, g = 2;
    for (PolarWidth width : {PolarWidth{1, 3}, PolarWidth{3, 5}, PolarWidth{4, 6}, PolarWidth{5, 7},
                             PolarWidth{4, 8}}) {
      for (bool narrow : {false, true}) {
        SCOPED_TRACE(std::string(CpuLevelName(level)) + " " + std::to_string(width.r_bits) + "+" +
                     std::to_string(width.a_bits));
        auto codec = MakeCodec(D, D, std::vector<PolarWidth>(D / 2, width));
        std::vector<float> keys = RandomKeys(kPageTokens, D, &rng);
        if (narrow) {
          for (float& x : keys) x = 10 + 1e-4f * x;
        }
        auto page = Encode(*codec, keys);
        const std::vector<float> q = RandomKeys(g, D, &rng);
        AlignedBuffer<std::byte> prepared(codec->PreparedQueryBytes(g));
        codec->PrepareQuery(q.data(), g, prepared.data());
        AlignedBuffer<float> score(g * kPageTokens), in_float(g * kPageTokens);
        codec->ScorePage(prepared.data(), g, page.data(), kPageTokens, score.data());
        float_score(codec->layout(), reinterpret_cast<const float*>(prepared.data()), g,
                    page.data(), kPageTokens, in_float.data());
        const bool same =
            std::memcmp(score.data(), in_float.data(), g * kPageTokens * sizeof(float)) == 0;
        EXPECT_EQ(same, narrow);
      }
    }
  }
}
#endif

TEST(Polar, AllLevelsWriteTheSameCodesUpToRoundingAtCellBorders) {
  for (CpuLevel level : AvailableCpuLevels()) {
    Rng rng(9);
    int64_t different = 0, total = 0;
    for (int D : {64, 33}) {
      auto codec = MakeCodec(D, D / 2 * 2, RandomWidths((D + 1) / 2, &rng));
      for (int n_tokens : {128, 128, 128, 100, 17, 1}) {
        const std::vector<float> keys = RandomKeys(n_tokens, D, &rng);
        AlignedBuffer<std::byte> plain, vector;
        {
          LevelGuard guard(CpuLevel::kScalar);
          plain = Encode(*codec, keys);
        }
        {
          LevelGuard guard(level);
          vector = Encode(*codec, keys);
        }
        for (int s = 0; s < codec->layout().n_slots; ++s) {
          const PolarSlot& slot = codec->layout().slots[s];
          const PolarGrid a = LoadPolarGrid(codec->layout(), plain.data(), s);
          const PolarGrid b = LoadPolarGrid(codec->layout(), vector.data(), s);
          uint16_t code_a[kPageTokens], code_b[kPageTokens];
          UnpackField(plain.data(), slot.width.total(), slot.parts, code_a);
          UnpackField(vector.data(), slot.width.total(), slot.parts, code_b);
          ASSERT_LE(std::abs(a.phi_range - b.phi_range), 1);
          for (int t = 0; t < kPageTokens; ++t) different += code_a[t] != code_b[t];
          total += kPageTokens;
        }
      }
    }
    // 2^-24 turns of angle and one rounding of the radius, in cells of up to 2^-8 turns.
    EXPECT_LE(static_cast<double>(different), 1e-2 * static_cast<double>(total))
        << CpuLevelName(level);
  }
}

double MaxError(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::fabs(static_cast<double>(a[i]) - b[i]));
  }
  return worst;
}

TEST(Polar, APairAtAngleZeroIsTenTimesMoreExactWithTheGapCut) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(10);
    std::vector<float> keys;
    for (int t = 0; t < kPageTokens; ++t) {
      keys.push_back(10.0f);
      keys.push_back(static_cast<float>(0.5 * (2 * rng.Uniform() - 1)));  // +-2.9 degrees
    }
    auto gap = MakeCodec(2, 2, {{4, 4}});
    auto cut0 = MakeCodec(2, 2, {{4, 4}}, CircleCut::kAtZero);
    const double gap_error = MaxError(Decode(*gap, Encode(*gap, keys).data(), kPageTokens), keys);
    const double cut0_error =
        MaxError(Decode(*cut0, Encode(*cut0, keys).data(), kPageTokens), keys);
    // Half a cell: arc of 2 * 0.05 rad over 16 cells at radius 10, plus the stored arc's rounding
    // (three units of 2^-16 turn over 32) and the radius cell ((10.0125 - 10) / 32).
    EXPECT_LE(gap_error, 10.02 * (0.1 + 3 * 6.2832 / 65536) / 32 + 0.02 / 32 + 1e-3);
    EXPECT_GE(cut0_error, 10 * gap_error);
  }
}

TEST(Polar, DegenerateAndHostileKeysStayFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    SCOPED_TRACE(CpuLevelName(level));
    Rng rng(11);
    auto codec = MakeCodec(64, 64, RandomWidths(32, &rng));
    for (float special : {nan, inf, -inf, 3e38f, 1e-40f}) {
      std::vector<float> keys = RandomKeys(kPageTokens, 64, &rng);
      for (int d = 0; d < 64; ++d) keys[17 * 64 + d] = special;
      keys[64] = special;
      for (float x : Decode(*codec, Encode(*codec, keys).data(), kPageTokens)) {
        ASSERT_TRUE(std::isfinite(x));
      }
      std::vector<float> all(kPageTokens * 64, special);
      for (float x : Decode(*codec, Encode(*codec, all).data(), kPageTokens)) {
        ASSERT_TRUE(std::isfinite(x));
      }
    }
    // A page of zeros, and of NaN, decodes to zeros.
    for (float value : {0.0f, nan}) {
      std::vector<float> keys(kPageTokens * 64, value);
      for (float x : Decode(*codec, Encode(*codec, keys).data(), kPageTokens)) {
        ASSERT_EQ(x, 0.0f);
      }
    }
  }
}

TEST(Polar, AConstantRadiusCostsLessThanItsSixteenBitRounding) {
  Rng rng(12);
  std::vector<float> keys;
  for (int t = 0; t < kPageTokens; ++t) {
    const double angle = 6.283185307179586 * rng.Uniform();
    keys.push_back(static_cast<float>(3 * std::cos(angle)));
    keys.push_back(static_cast<float>(3 * std::sin(angle)));
  }
  // The grid spans one f16 step (2^-9 at 3), in four cells of which the middle is taken.
  constexpr double kHalfCell = 0x1p-9 / 8 * 1.01;
  auto codec = MakeCodec(2, 2, {{2, 8}});
  auto decoded = Decode(*codec, Encode(*codec, keys).data(), kPageTokens);
  for (int t = 0; t < kPageTokens; ++t) {
    EXPECT_NEAR(std::hypot(decoded[2 * t], decoded[2 * t + 1]), 3.0, kHalfCell);
  }
}

// The neutral setting: more bits bring decoded keys towards the exact ones, each bit of both fields
// halves the error.
TEST(Polar, WideFieldsApproachTheExactKeys) {
  Rng rng(13);
  const std::vector<float> keys = RandomKeys(kPageTokens, 64, &rng);
  auto mean_square = [&](PolarWidth width) {
    auto codec = MakeCodec(64, 64, std::vector<PolarWidth>(32, width));
    auto decoded = Decode(*codec, Encode(*codec, keys).data(), kPageTokens);
    double sum = 0, size = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      sum += (decoded[i] - keys[i]) * (decoded[i] - keys[i]);
      size += keys[i] * keys[i];
    }
    return sum / size;
  };
  const double coarse = mean_square({2, 3}), middle = mean_square({3, 4}),
               fine = mean_square({5, 6});
  EXPECT_NEAR(std::log2(coarse / middle), 2.0, 0.3);
  EXPECT_NEAR(std::log2(middle / fine), 4.0, 0.3);
  EXPECT_LT(fine, 1e-3);
}

TEST(Polar, MovingAPageIsRotatingTheQueryTheOtherWay) {
  for (CpuLevel level : AvailableCpuLevels()) {
    LevelGuard guard(level);
    Rng rng(14);
    const int D = 64, g = 3;
    auto codec = MakeCodec(D, D, RandomWidths(D / 2, &rng));
    auto page = Encode(*codec, RandomKeys(kPageTokens, D, &rng));
    std::vector<float> q = RandomKeys(g, D, &rng), turned = q;
    std::vector<uint16_t> phase(D / 2);
    for (int j = 0; j < D / 2; ++j) {
      phase[j] = static_cast<uint16_t>(rng.Below(65536));
      const double angle = 6.283185307179586 * phase[j] / 65536;
      for (int h = 0; h < g; ++h) {
        const double x = q[h * D + j], y = q[h * D + j + D / 2];
        turned[h * D + j] = static_cast<float>(x * std::cos(angle) + y * std::sin(angle));
        turned[h * D + j + D / 2] = static_cast<float>(y * std::cos(angle) - x * std::sin(angle));
      }
    }
    const std::vector<float> expected = Score(*codec, turned, g, page.data(), kPageTokens);
    const std::vector<float> keys = Decode(*codec, page.data(), kPageTokens);
    AlignedBuffer<std::byte> moved(codec->PageBytes());
    std::memcpy(moved.data(), page.data(), codec->PageBytes());
    codec->AddPhases(phase.data(), moved.data());
    const std::vector<float> actual = Score(*codec, q, g, moved.data(), kPageTokens);
    for (int h = 0; h < g; ++h) {
      // Both sides round.
      const double share = 2 * KernelShare() * CodeError(*codec, page.data(), &q[h * D]);
      for (int t = 0; t < kPageTokens; ++t) {
        double magnitude = 0;
        for (int j = 0; j < D / 2; ++j) {
          magnitude += std::hypot(q[h * D + j], q[h * D + j + D / 2]) *
                       std::hypot(keys[t * D + j], keys[t * D + j + D / 2]);
        }
        ASSERT_NEAR(actual[h * kPageTokens + t], expected[h * kPageTokens + t],
                    kDeviations * share + kScoreError * magnitude);
      }
    }
    // Codes are untouched: only the first 2 P bytes, the arc starts, differ.
    EXPECT_EQ(std::memcmp(page.data() + D, moved.data() + D, codec->PageBytes() - D), 0);
  }
}

TEST(Polar, PageBytesAreTheWidthsPlusAQuarterBit) {
  for (PolarWidth width : AllWidths()) {
    for (int D : {64, 128}) {
      auto codec = MakeCodec(D, D, std::vector<PolarWidth>(D / 2, width));
      const double bits = 8.0 * static_cast<double>(codec->PageBytes()) / (D * kPageTokens);
      EXPECT_DOUBLE_EQ(bits, width.total() / 2.0 + kPolarGridBits);
    }
  }
}

TEST(Polar, BothPairingsStoreTheSameNumbers) {
  Rng rng(15);
  const int D = 32;
  const std::vector<PolarWidth> widths = RandomWidths(D / 2, &rng);
  auto halves = MakeCodec(D, D, widths);
  auto neighbours = MakeCodec(D, D, widths, CircleCut::kLargestGap, RopePairing::kInterleaved);
  const std::vector<float> keys = RandomKeys(kPageTokens, D, &rng);
  std::vector<float> interleaved(keys.size());
  for (int t = 0; t < kPageTokens; ++t) {
    for (int j = 0; j < D / 2; ++j) {
      interleaved[t * D + 2 * j] = keys[t * D + j];
      interleaved[t * D + 2 * j + 1] = keys[t * D + j + D / 2];
    }
  }
  auto a = Encode(*halves, keys), b = Encode(*neighbours, interleaved);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), halves->PageBytes()), 0);
}

TEST(Polar, IdsAndClassesAreChecked) {
  KvCodecParams params;
  params.head_dim = 64;
  params.n_rot = 64;
  auto uniform = kPolarKvCodec.make("polar", params);
  ASSERT_TRUE(uniform.ok());
  EXPECT_EQ((*uniform)->PageBytes(), 64 * kPageTokens * 17 / 32);  // 4.25 bits
  std::vector<uint8_t> classes(32, 0);
  params.classes = classes;
  auto narrow = kPolarKvCodec.make("polar", params);
  ASSERT_TRUE(narrow.ok());
  EXPECT_EQ((*narrow)->PageBytes(), 64 * kPageTokens * 9 / 32);  // 2.25 bits
  classes[3] = kNumPolarClasses;
  EXPECT_EQ(kPolarKvCodec.make("polar", params).status().code(), StatusCode::kInvalidArgument);
  params.classes = std::span(classes).first(31);
  EXPECT_EQ(kPolarKvCodec.make("polar", params).status().code(), StatusCode::kInvalidArgument);
  params.classes = {};
  auto group = kPolar44KvCodec.make;
  EXPECT_TRUE(group("polar35", params).ok());
  EXPECT_TRUE(group("polar57", params).ok());
  EXPECT_TRUE(group("polar44_cut0", params).ok());
  for (const char* id :
       {"polar", "polar4", "polar04", "polar67", "polar48", "polar71", "polar44x"}) {
    EXPECT_EQ(group(id, params).status().code(), StatusCode::kInvalidArgument) << id;
  }
  params.role = KvRole::kValue;
  EXPECT_EQ(group("polar44", params).status().code(), StatusCode::kUnsupported);
  params.role = KvRole::kKey;
  params.head_dim = 2048;
  EXPECT_EQ(group("polar44", params).status().code(), StatusCode::kUnsupported);
  params.head_dim = 64;
  params.n_rot = 65;
  EXPECT_EQ(group("polar44", params).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace phasor
