#include "cache/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/rng.h"
#include "registry/kv_codec_table.h"

namespace phasor {
namespace {

constexpr int kHeadDim = 64;

std::unique_ptr<KvCache> MakeCache(const char* type_k, const char* type_v, int n_sink, int n_recent,
                                   int n_layers = 1, int n_heads = 1) {
  std::vector<KvHeadCodecs> codecs;
  for (int i = 0; i < n_layers * n_heads; ++i) {
    KvCodecParams k{.head_dim = kHeadDim, .n_rot = kHeadDim, .role = KvRole::kKey};
    KvCodecParams v{.head_dim = kHeadDim, .n_rot = kHeadDim, .role = KvRole::kValue};
    KvHeadCodecs c;
    c.key = MakeKvCodec(type_k, k).value();
    c.value = MakeKvCodec(type_v, v).value();
    c.key_rows = MakeRowKvCodec("f16", k).value();
    c.value_rows = MakeRowKvCodec("f16", v).value();
    codecs.push_back(std::move(c));
  }
  return std::make_unique<KvCache>(KvCacheOptions{n_layers, n_heads, kHeadDim, n_sink, n_recent},
                                   std::move(codecs));
}

// Row t of the text; the same for keys and values but for the sign.
void Row(int64_t t, float* out) {
  Rng rng(1000 + static_cast<uint64_t>(t));
  for (int d = 0; d < kHeadDim; ++d) out[d] = static_cast<float>(rng.Normal());
}

// run: rows that are written at a time, the last ones first.
void Append(KvCache& cache, int n, int run = 100000) {
  ASSERT_TRUE(cache.Reserve(n).ok());
  const auto& o = cache.options();
  for (int layer = 0; layer < o.n_layers; ++layer) {
    for (int head = 0; head < o.n_kv_heads; ++head) {
      std::vector<float> k(static_cast<std::size_t>(n) * kHeadDim), v(k.size());
      for (int i = 0; i < n; ++i) {
        Row(cache.n_tokens() + i, k.data() + static_cast<std::size_t>(i) * kHeadDim);
      }
      for (std::size_t i = 0; i < k.size(); ++i) v[i] = -k[i];
      for (int begin = (n - 1) / run * run; begin >= 0; begin -= run) {
        const std::size_t from = static_cast<std::size_t>(begin) * kHeadDim;
        cache.AppendHead(layer, head, k.data() + from, v.data() + from, std::min(run, n - begin),
                         begin);
      }
    }
  }
  cache.CommitAppend(n);
  ThreadPool pool(1);
  cache.Freeze(pool);
}

// All tokens of head 0 as stored, keys.
std::vector<float> Decode(const KvCache& cache) {
  std::vector<KvSegment> segments;
  cache.Segments(0, 0, 0, &segments);
  std::vector<float> out;
  int64_t token = 0;
  for (const KvSegment& s : segments) {
    EXPECT_EQ(s.first_token, token);
    token += s.n_tokens;
    std::vector<float> rows(static_cast<std::size_t>(kPageTokens) * kHeadDim);
    s.key_codec->DecodePage(s.key_page, s.first_row + s.n_tokens, rows.data());
    const auto first = rows.begin() + static_cast<std::ptrdiff_t>(s.first_row) * kHeadDim;
    out.insert(out.end(), first, first + static_cast<std::ptrdiff_t>(s.n_tokens) * kHeadDim);
  }
  EXPECT_EQ(token, cache.n_tokens());
  return out;
}

TEST(KvCache, SegmentsCoverEveryTokenOnceAtEveryLength) {
  for (int n_sink : {0, 4}) {
    auto cache = MakeCache("f16", "f16", n_sink, 16);
    for (int n = 1; n <= 420; ++n) {
      Append(*cache, 1);
      std::vector<float> stored = Decode(*cache);
      ASSERT_EQ(stored.size(), static_cast<std::size_t>(n) * kHeadDim);
      float last[kHeadDim];
      Row(n - 1, last);
      // f16 rounding of a standard normal is below 2^-10.
      for (int d = 0; d < kHeadDim; ++d) {
        ASSERT_NEAR(stored[static_cast<std::size_t>(n - 1) * kHeadDim + d], last[d], 4e-3);
      }
    }
  }
}

TEST(KvCache, WindowHoldsBetweenRecentAndRecentPlus127Tokens) {
  auto cache = MakeCache("q8_0", "q8_0", 4, 32);
  for (int n = 1; n <= 700; ++n) {
    Append(*cache, 1);
    const int64_t window = n - 4 - cache->n_frozen_pages() * kPageTokens;
    EXPECT_LT(window, 32 + kPageTokens);
    if (cache->n_frozen_pages() > 0) {
      EXPECT_GE(window, 32);
    }
  }
}

TEST(KvCache, LongAndShortCallsGiveEqualContents) {
  auto one = MakeCache("q4_0", "q8_0", 4, 128), many = MakeCache("q4_0", "q8_0", 4, 128);
  Append(*one, 900);
  for (int n : {1, 7, 128, 300, 64, 400}) Append(*many, n);
  EXPECT_EQ(one->n_frozen_pages(), many->n_frozen_pages());
  EXPECT_EQ(one->UsedBytes(), many->UsedBytes());
  EXPECT_EQ(Decode(*one), Decode(*many));
}

TEST(KvCache, RowsMayBeAppendedInRunsInAnyOrder) {
  for (int run : {1, 7, 64, 130}) {
    auto one = MakeCache("frame4", "q4_head", 4, 32), runs = MakeCache("frame4", "q4_head", 4, 32);
    for (int n : {100, 37, 300}) {
      Append(*one, n);
      Append(*runs, n, run);
    }
    EXPECT_EQ(Decode(*one), Decode(*runs)) << run;
  }
}

TEST(KvCache, TruncateThenAppendEqualsNeverHavingBeenLonger) {
  auto cut = MakeCache("f16", "f16", 4, 64), plain = MakeCache("f16", "f16", 4, 64);
  Append(*cut, 1000);
  for (int64_t n : {990, 700, 516, 515, 130, 3, 0}) {
    ASSERT_TRUE(cut->Truncate(n).ok());
    EXPECT_EQ(cut->n_tokens(), n);
    plain->Clear();
    if (n > 0) Append(*plain, static_cast<int>(n));
    EXPECT_EQ(Decode(*cut), Decode(*plain)) << n;
  }
  Append(*cut, 333);
  plain->Clear();
  Append(*plain, 333);
  EXPECT_EQ(Decode(*cut), Decode(*plain));
  EXPECT_EQ(cut->Truncate(334).code(), StatusCode::kOutOfRange);
}

TEST(KvCache, UsedBytesCountPagesAndWindow) {
  auto cache = MakeCache("q8_0", "q8_0", 0, 128, 2, 3);
  Append(*cache, 128 * 5);
  // 4 frozen pages of 8.5 bits and one 16-bit page, keys and values, six heads.
  const std::size_t frozen = 4 * 128 * kHeadDim * 34 / 32, window = 128 * kHeadDim * 2;
  EXPECT_EQ(cache->UsedBytes(), 6 * 2 * (frozen + window));
}

}  // namespace
}  // namespace phasor
