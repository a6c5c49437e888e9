#include "attention/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "registry/kv_codec_table.h"
#include "simd/cpu.h"

namespace phasor {
namespace {

struct Scene {
  AttentionShape shape;
  std::unique_ptr<KvCache> cache;
  // Everything appended so far, as given: [T, n_kv, D].
  std::vector<float> k, v;
};

Scene Make(int n_heads, int n_kv, int D, const char* type_k, const char* type_v, int recent,
           int64_t window = 0) {
  Scene s;
  s.shape = {n_heads, n_kv, D, 1.0f / std::sqrt(static_cast<float>(D)), window};
  std::vector<KvHeadCodecs> codecs;
  const bool is_f32 = std::string(type_k) == "f32";
  for (int h = 0; h < n_kv; ++h) {
    KvCodecParams k{.head_dim = D, .n_rot = D, .role = KvRole::kKey, .kv_head = h};
    KvCodecParams v{.head_dim = D, .n_rot = D, .role = KvRole::kValue, .kv_head = h};
    KvHeadCodecs c;
    c.key = MakeKvCodec(type_k, k).value();
    c.value = MakeKvCodec(type_v, v).value();
    c.key_rows = MakeRowKvCodec(is_f32 ? "f32" : "f16", k).value();
    c.value_rows = MakeRowKvCodec(is_f32 ? "f32" : "f16", v).value();
    codecs.push_back(std::move(c));
  }
  s.cache = std::make_unique<KvCache>(KvCacheOptions{1, n_kv, D, 4, recent}, std::move(codecs));
  return s;
}

// Appends n random tokens and attends from them; q returned through q_out.
std::vector<float> Step(Scene& s, int n, uint64_t seed, ThreadPool& pool, AttentionScratch& scratch,
                        std::vector<float>* q_out) {
  const int n_kv = s.shape.n_kv_heads, D = s.shape.head_dim;
  Rng rng(seed);
  std::vector<float> q(static_cast<std::size_t>(n) * s.shape.n_heads * D), out(q.size());
  for (float& x : q) x = static_cast<float>(rng.Normal());
  EXPECT_TRUE(s.cache->Reserve(n).ok());
  const std::size_t base = s.k.size();
  for (int i = 0; i < n * n_kv * D; ++i) {
    s.k.push_back(static_cast<float>(rng.Normal()));
    s.v.push_back(static_cast<float>(rng.Normal()));
  }
  for (int h = 0; h < n_kv; ++h) {
    std::vector<float> k, v;
    for (int t = 0; t < n; ++t) {
      const std::size_t from = base + (static_cast<std::size_t>(t) * n_kv + h) * D;
      k.insert(k.end(), s.k.begin() + from, s.k.begin() + from + D);
      v.insert(v.end(), s.v.begin() + from, s.v.begin() + from + D);
    }
    s.cache->AppendHead(0, h, k.data(), v.data(), n);
  }
  *q_out = q;
  Attend(s.shape, *s.cache, 0, n, q.data(), out.data(), scratch, pool);
  s.cache->CommitAppend(n);
  s.cache->Freeze(pool);
  return out;
}

// Plain double attention of the last n tokens over everything in s.k and s.v.
std::vector<double> Reference(const Scene& s, const std::vector<float>& q, int n) {
  const int H = s.shape.n_heads, n_kv = s.shape.n_kv_heads, D = s.shape.head_dim, g = H / n_kv;
  const int64_t total = static_cast<int64_t>(s.k.size()) / (n_kv * D);
  std::vector<double> out(q.size(), 0.0);
  for (int t = 0; t < n; ++t) {
    const int64_t position = total - n + t;
    const int64_t oldest = s.shape.sliding_window > 0
                               ? std::max<int64_t>(0, position + 1 - s.shape.sliding_window)
                               : 0;
    for (int h = 0; h < H; ++h) {
      std::vector<double> w;
      double max = -1e300, sum = 0;
      for (int64_t p = oldest; p <= position; ++p) {
        double dot = 0;
        for (int d = 0; d < D; ++d) {
          dot += static_cast<double>(q[(static_cast<std::size_t>(t) * H + h) * D + d]) *
                 s.k[(static_cast<std::size_t>(p) * n_kv + h / g) * D + d];
        }
        w.push_back(dot / std::sqrt(static_cast<double>(D)));
        max = std::max(max, w.back());
      }
      for (double& x : w) sum += x = std::exp(x - max);
      for (int64_t p = oldest; p <= position; ++p) {
        for (int d = 0; d < D; ++d) {
          out[(static_cast<std::size_t>(t) * H + h) * D + d] +=
              w[p - oldest] / sum * s.v[(static_cast<std::size_t>(p) * n_kv + h / g) * D + d];
        }
      }
    }
  }
  return out;
}

double MaxError(const std::vector<float>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

// Float products over 64..128 terms and up to 1000 weights that sum to one.
constexpr double kFloatTolerance = 2e-5;
// f16 rounding of keys moves a score by about 2^-11 and of values by as much.
constexpr double kHalfTolerance = 4e-3;

class AttentionLevels : public ::testing::TestWithParam<CpuLevel> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetCpuLevel(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SetCpuLevel(DetectedCpuLevel()).ok()); }
};

TEST_P(AttentionLevels, DecodeAndPrefillEqualDoubleReference) {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    AttentionScratch scratch;
    for (auto [heads, n_kv, D] : {std::array{9, 3, 64}, {4, 4, 80}, {8, 1, 128}, {6, 2, 96}}) {
      Scene s = Make(heads, n_kv, D, "f32", "f32", 64);
      uint64_t seed = 1;
      for (int n : {1, 3, 5, 130, 1, 70, 1, 257, 2, 1}) {
        std::vector<float> q;
        auto out = Step(s, n, seed++, pool, scratch, &q);
        EXPECT_LT(MaxError(out, Reference(s, q, n)), kFloatTolerance)
            << heads << "/" << n_kv << " D " << D << " n " << n;
      }
    }
  }
}

TEST_P(AttentionLevels, SlidingWindowHidesOlderTokens) {
  ThreadPool pool(2);
  AttentionScratch scratch;
  for (int64_t window : {1, 50, 128, 200}) {
    Scene s = Make(4, 2, 64, "f32", "f32", 64, window);
    for (int n : {150, 1, 200, 1, 1, 300, 4}) {
      std::vector<float> q;
      auto out = Step(s, n, 77 + n, pool, scratch, &q);
      EXPECT_LT(MaxError(out, Reference(s, q, n)), kFloatTolerance) << window << " n " << n;
    }
  }
}

TEST_P(AttentionLevels, HalfPrecisionCacheStaysWithinItsRounding) {
  ThreadPool pool(2);
  AttentionScratch scratch;
  Scene s = Make(9, 3, 64, "f16", "f16", 128);
  for (int n : {400, 1, 1, 130, 1}) {
    std::vector<float> q;
    auto out = Step(s, n, 5 + n, pool, scratch, &q);
    EXPECT_LT(MaxError(out, Reference(s, q, n)), kHalfTolerance);
  }
}

// Prefill on 16-bit integers where the level has it: a value loses up to 1/4094 of its channel's
// largest (random normal numbers: 4 to 5), a weight up to 2^-14 of its page's largest, at random
// signs; see prefill_int16_test.cc.
constexpr double kInt16Tolerance = 5 * 2 * (1.0 / 4094 + 0x1.0p-13 * 11.4);

TEST_P(AttentionLevels, ReducedPrecisionStaysWithinItsRounding) {
  ThreadPool pool(2);
  AttentionScratch scratch;
  uint64_t seed = 1;
  for (auto [heads, n_kv, D] : {std::array{9, 3, 64},
                                {4, 4, 80},
                                {8, 1, 128},
                                {10, 2, 96},
                                {7, 1, 64},
                                {6, 1, 256},
                                {4, 2, 16}}) {
    for (int64_t window : {0, 1, 45, 200}) {
      Scene s = Make(heads, n_kv, D, "f32", "f32", 64, window);
      s.shape.precision = MatMulPrecision::kInt8;
      for (int n : {1, 5, 130, 6, 161, 1}) {
        std::vector<float> q;
        auto out = Step(s, n, seed++, pool, scratch, &q);
        EXPECT_LT(MaxError(out, Reference(s, q, n)), kInt16Tolerance)
            << heads << "/" << n_kv << " D " << D << " window " << window << " n " << n;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, AttentionLevels, ::testing::ValuesIn(AvailableCpuLevels()),
                         [](const auto& info) { return CpuLevelName(info.param); });

// Whatever the codec loses, decode (scores on codes) and prefill (decoded tiles) must lose the
// same.
TEST(Attention, DecodeAndPrefillAgreeForEveryCodec) {
  ThreadPool pool(2);
  AttentionScratch scratch;
  // Both paths read equal codes; integer kernels may round queries or weights to 8 bits and more.
  constexpr double kPathTolerance = 0.02;
  // score_codes runs the very kernels of decode; partial sums are only merged in another order.
  constexpr double kOrderTolerance = 1e-5;
  for (const KvCodecInfo& codec : KvCodecs()) {
    const char* k = codec.for_keys ? codec.id : "f16";
    const char* v = codec.for_values ? codec.id : "f16";
    if (std::string(codec.id) == "f32") k = v = "f32";
    Scene a = Make(6, 2, 64, k, v, 64), b = Make(6, 2, 64, k, v, 64), c = Make(6, 2, 64, k, v, 64);
    std::vector<float> q;
    Step(a, 500, 1, pool, scratch, &q);
    Step(b, 500, 1, pool, scratch, &q);
    Step(c, 500, 1, pool, scratch, &q);
    c.shape.score_codes = true;
    // The same five tokens: at once (prefill), and one by one with the same random stream.
    const auto all = Step(a, 5, 2, pool, scratch, &q);
    const auto on_codes = Step(c, 5, 2, pool, scratch, &q);
    Scene* s = &b;
    const int n_kv = 2, D = 64, H = 6;
    Rng rng(2);
    std::vector<float> queries(5 * H * D), kv(2 * 5 * n_kv * D);
    for (float& x : queries) x = static_cast<float>(rng.Normal());
    for (float& x : kv) x = static_cast<float>(rng.Normal());
    double worst = 0, worst_on_codes = 0;
    for (int t = 0; t < 5; ++t) {
      ASSERT_TRUE(s->cache->Reserve(1).ok());
      for (int h = 0; h < n_kv; ++h) {
        std::vector<float> kr, vr;
        for (int d = 0; d < D; ++d) {
          kr.push_back(kv[2 * ((t * n_kv + h) * D + d)]);
          vr.push_back(kv[2 * ((t * n_kv + h) * D + d) + 1]);
        }
        s->cache->AppendHead(0, h, kr.data(), vr.data(), 1);
      }
      std::vector<float> out(H * D),
          qt(queries.begin() + t * H * D, queries.begin() + (t + 1) * H * D);
      Attend(s->shape, *s->cache, 0, 1, qt.data(), out.data(), scratch, pool);
      s->cache->CommitAppend(1);
      for (int i = 0; i < H * D; ++i) {
        const auto x = static_cast<double>(out[i]);
        worst = std::max(worst, std::abs(x - all[t * H * D + i]));
        worst_on_codes = std::max(worst_on_codes, std::abs(x - on_codes[t * H * D + i]));
      }
    }
    EXPECT_LT(worst, kPathTolerance) << codec.id;
    EXPECT_LT(worst_on_codes, kOrderTolerance) << codec.id;
  }
}

}  // namespace
}  // namespace phasor
