// Spans of real caches through files: every codec, bit for bit, into a store of its own.
#include "store/kv_span_io.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "cache/kv_cache.h"
#include "registry/kv_codec_table.h"
#include "store/chunk_store.h"
#include "store/span_file.h"

namespace phasor {
namespace {

constexpr int kLayers = 2, kHeads = 2, kDim = 64;

KvCacheOptions Options() {
  return {.n_layers = kLayers,
          .n_kv_heads = kHeads,
          .head_dim = kDim,
          .n_sink = 4,
          .n_recent = 32,
          .n_rot = kDim};
}

PhaseTable Schedule(double base) {
  PhaseTable table;
  for (int j = 0; j < kDim / 2; ++j) {
    table.step_P.push_back(static_cast<uint64_t>(std::pow(base, -2.0 * j / kDim) / 6.283185307 *
                                                 18446744073709551615.0));
  }
  return table;
}

const char* RowsFor(const std::string& id) {
  if (id == "f32" || id == "bf16") return id == "f32" ? "f32" : "bf16";
  return "f16";
}

std::shared_ptr<KvStore> MakeStore(const std::string& type_k, const std::string& type_v) {
  std::vector<KvHeadCodecs> codecs;
  for (int i = 0; i < kLayers * kHeads; ++i) {
    KvCodecParams k{.head_dim = kDim, .n_rot = kDim, .role = KvRole::kKey};
    KvCodecParams v{.head_dim = kDim, .n_rot = kDim, .role = KvRole::kValue};
    KvHeadCodecs c;
    c.key = MakeKvCodec(type_k, k).value();
    c.value = MakeKvCodec(type_v, v).value();
    c.key_rows = MakeRowKvCodec(RowsFor(type_k), k).value();
    c.value_rows = MakeRowKvCodec(RowsFor(type_v), v).value();
    codecs.push_back(std::move(c));
  }
  const KvStoreOptions options{kLayers, kHeads, kDim, kDim, RopePairing::kHalfSplit};
  return std::make_shared<KvStore>(options, std::move(codecs));
}

SpanFingerprint FingerprintOf(const KvStore& store, const std::string& k, const std::string& v) {
  SpanFingerprint f = StoreFingerprint(store);
  f.model_hash = "model";
  for (SpanLayerCodecs& layer : f.layers) layer = {k, v, RowsFor(k), RowsFor(v), 0};
  return f;
}

void Append(KvCache& cache, int n, Rng& rng, ThreadPool& pool) {
  ASSERT_TRUE(cache.Reserve(n).ok());
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int head = 0; head < kHeads; ++head) {
      std::vector<float> k(static_cast<std::size_t>(n) * kDim), v(k.size());
      for (float& x : k) x = static_cast<float>(rng.Normal());
      for (float& x : v) x = static_cast<float>(rng.Normal());
      cache.AppendHead(layer, head, k.data(), v.data(), n);
    }
  }
  cache.CommitAppend(n);
  cache.Freeze(pool);
}

// Text with an edit of every kind, two schedules, and fractions of positions.
std::unique_ptr<KvCache> EditedCache(const std::shared_ptr<KvStore>& store, Rng& rng,
                                     ThreadPool& pool) {
  auto cache = std::make_unique<KvCache>(Options(), store);
  cache->SetSchedule(Schedule(10000));
  Append(*cache, 300, rng, pool);
  EXPECT_TRUE(cache->Erase(150, 170).ok());
  EXPECT_TRUE(cache->Move(10, 60, 200).ok());
  EXPECT_TRUE(cache->Copy(100, 140, 20).ok());
  cache->SetSchedule(Schedule(500000));
  cache->SetNextPosition(cache->next_position() + kTicksPerPosition / 3);
  Append(*cache, 90, rng, pool);
  EXPECT_TRUE(cache->Pin(5, 30).ok());
  return cache;
}

std::vector<int32_t> TokensFor(const KvSpan& span) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < span.n_tokens(); ++i) tokens.push_back(static_cast<int32_t>(i * 7));
  return tokens;
}

// Rows of all pieces as numbers, for every layer and head, keys and values: equal codes give equal
// numbers, and every byte of a row or page takes part in them.
std::vector<float> Decoded(const KvSpan& span) {
  const KvStore& store = *span.store();
  std::vector<float> all, rows(kPageTokens * kDim);
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int head = 0; head < kHeads; ++head) {
      const KvHeadCodecs& c = store.codecs(layer, head);
      for (const KvPiece& p : span.pieces()) {
        const bool is_rows = p.kind == KvBlockKind::kRows;
        const int n = store.n_filled(p.kind, p.block);
        for (bool key : {true, false}) {
          const KvCodec& codec =
              key ? (is_rows ? *c.key_rows : *c.key) : (is_rows ? *c.value_rows : *c.value);
          codec.DecodePage(key ? store.KeyPage(p.kind, p.block, layer, head)
                               : store.ValuePage(p.kind, p.block, layer, head),
                           n, rows.data());
          const float* from = rows.data() + static_cast<std::size_t>(p.first_row) * kDim;
          all.insert(all.end(), from, from + static_cast<std::size_t>(p.n_rows) * kDim);
        }
      }
    }
  }
  return all;
}

void ExpectSamePieces(const KvSpan& a, const KvSpan& b, SpanMarks marks) {
  ASSERT_EQ(a.pieces().size(), b.pieces().size());
  EXPECT_EQ(a.first_position(), b.first_position());
  EXPECT_EQ(a.end_position(), b.end_position());
  for (std::size_t i = 0; i < a.pieces().size(); ++i) {
    const KvPiece &p = a.pieces()[i], &q = b.pieces()[i];
    EXPECT_EQ(p.kind, q.kind);
    ASSERT_EQ(p.n_rows, q.n_rows);
    EXPECT_EQ(p.view.shift, q.view.shift);
    EXPECT_EQ(a.store()->schedule(p.view.schedule), b.store()->schedule(q.view.schedule));
    EXPECT_EQ(p.sink, q.sink);
    EXPECT_EQ(p.stale, q.stale);
    EXPECT_EQ(marks == SpanMarks::kKeep && p.pinned, q.pinned);
    const PositionTicks* at_a = a.store()->positions(p.kind, p.block) + p.first_row;
    const PositionTicks* at_b = b.store()->positions(q.kind, q.block) + q.first_row;
    EXPECT_EQ(std::memcmp(at_a, at_b, sizeof(*at_a) * p.n_rows), 0);
  }
}

TEST(KvSpanIo, SpansOfEveryCodecComeBackBitForBit) {
  ThreadPool pool(2);
  const std::string path = ::testing::TempDir() + "phasor_kv_span_io.span";
  int n_pairs = 0;
  for (const KvCodecInfo& info : KvCodecs()) {
    const std::string k = info.for_keys ? info.id : "f16", v = info.for_values ? info.id : "q4_0";
    SCOPED_TRACE(k + " / " + v);
    auto store = MakeStore(k, v), other = MakeStore(k, v);
    other->AddSchedule(Schedule(77));  // schedules get other numbers there
    Rng rng(9);
    auto cache = EditedCache(store, rng, pool);
    const SpanFingerprint fingerprint = FingerprintOf(*store, k, v);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, cache->n_tokens()}, {3, 4}, {17, 333}, {140, 260}}) {
      for (SpanMarks marks : {SpanMarks::kDrop, SpanMarks::kKeep}) {
        const KvSpan span = cache->Slice(begin, end).value();
        const KvSpanSource source(span, TokensFor(span),
                                  {.fingerprint = fingerprint,
                                   .left_context = LeftContext({}),
                                   .marks = marks,
                                   .attachments = {}});
        ASSERT_TRUE(WriteSpanFile(path, source).ok());
        auto file = SpanFile::Open(path);
        ASSERT_TRUE(file.ok()) << file.status().message();
        EXPECT_EQ((*file)->header(), source.header());
        auto restored = RestoreSpan(**file, other, fingerprint);
        ASSERT_TRUE(restored.ok()) << restored.status().message();
        ExpectSamePieces(span, *restored, marks);
        const std::vector<float> before = Decoded(span), after = Decoded(*restored);
        ASSERT_EQ(before.size(), after.size());
        EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size() * sizeof(float)), 0);
      }
    }
    ++n_pairs;
  }
  std::filesystem::remove(path);
  EXPECT_EQ(n_pairs, static_cast<int>(KvCodecs().size()));
}

TEST(KvSpanIo, TheStoreIsUnchangedAfterASpanThatDoesNotFitAndAfterEverySpanIsGone) {
  ThreadPool pool(2);
  auto store = MakeStore("q8_0", "q8_0"), other = MakeStore("q8_0", "q8_0");
  Rng rng(10);
  auto cache = EditedCache(store, rng, pool);
  const SpanFingerprint fingerprint = FingerprintOf(*store, "q8_0", "q8_0");
  const KvSpan span = cache->Slice(0, cache->n_tokens()).value();
  const KvSpanSource source(span, TokensFor(span),
                            {.fingerprint = fingerprint, .left_context = {}, .attachments = {}});
  const auto in_use = [&] {
    return other->n_blocks_in_use(KvBlockKind::kRows) + other->n_blocks_in_use(KvBlockKind::kCodes);
  };
  SpanFingerprint foreign = fingerprint;
  foreign.layers[1].value_codec = "q4_0";
  const Status status = RestoreSpan(source, other, foreign).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "cache: layer 1: V type: expected \"q4_0\", found \"q8_0\"");
  EXPECT_EQ(in_use(), 0);
  {
    KvSpanSink abandoned(other, fingerprint);
    ASSERT_TRUE(abandoned.Begin(source.header()).ok());
    EXPECT_GT(in_use(), 0);
  }
  EXPECT_EQ(in_use(), 0);
  {
    auto restored = RestoreSpan(source, other, fingerprint);
    ASSERT_TRUE(restored.ok());
    EXPECT_EQ(in_use(), static_cast<int>(source.header().blocks.size()));
  }
  EXPECT_EQ(in_use(), 0);
}

TEST(KvSpanIo, AnUneditedChunkIsAnExactHitAndAnEditedOneNever) {
  ThreadPool pool(2);
  auto store = MakeStore("frame4", "q4_head");
  Rng rng(11);
  KvCache cache(Options(), store);
  cache.SetSchedule(Schedule(10000));
  Append(cache, 200, rng, pool);
  const SpanFingerprint fingerprint = FingerprintOf(*store, "frame4", "q4_head");
  auto chunks = ChunkStore::Open({});
  ASSERT_TRUE(chunks.ok());
  const auto put_and_find = [&](int64_t begin, int64_t end) {
    const KvSpan span = cache.Slice(begin, end).value();
    const std::vector<int32_t> tokens = TokensFor(span), left = {1, 2, 3};
    const KvSpanSource source(
        span, tokens,
        {.fingerprint = fingerprint, .left_context = LeftContext(left), .attachments = {}});
    EXPECT_TRUE((*chunks)->Put(source).ok());
    auto hit = (*chunks)->Find({.fingerprint = &fingerprint,
                                .tokens = tokens,
                                .left_context = LeftContext(left),
                                .distances = {},
                                .allow_approximate = true});
    EXPECT_TRUE(hit.ok()) << hit.status().message();
    return hit->match;
  };
  EXPECT_EQ(put_and_find(20, 150), ChunkMatch::kExact);
  ASSERT_TRUE(cache.Erase(0, 10).ok());
  EXPECT_EQ(put_and_find(20, 151), ChunkMatch::kApproximate);
}

TEST(KvSpanIo, ARestoredChunkAttachesAtAnyOffset) {
  ThreadPool pool(2);
  auto store = MakeStore("q8_0", "q8_0"), other = MakeStore("q8_0", "q8_0");
  Rng rng(12);
  KvCache cache(Options(), store);
  cache.SetSchedule(Schedule(10000));
  Append(cache, 200, rng, pool);
  const SpanFingerprint fingerprint = FingerprintOf(*store, "q8_0", "q8_0");
  const KvSpan span = cache.Slice(0, 200).value();
  const KvSpanSource source(
      span, TokensFor(span),
      {.fingerprint = fingerprint, .left_context = LeftContext({}), .attachments = {}});
  KvCache target(Options(), other);
  target.SetSchedule(Schedule(10000));
  Append(target, 50, rng, pool);
  const KvSpan restored = RestoreSpan(source, other, fingerprint).value();
  for (PositionTicks at :
       {PositionTicks{50} * kTicksPerPosition, PositionTicks{1} << 40, PositionTicks{12345}}) {
    const int64_t first = target.n_tokens();
    ASSERT_TRUE(target.Attach(restored, {.position = at}).ok());
    for (int64_t i : {0, 1, 77, 199}) {
      EXPECT_EQ(target.PositionOf(first + i), at + i * kTicksPerPosition);
    }
    EXPECT_EQ(target.next_position(), at + 200 * kTicksPerPosition);
  }
}

}  // namespace
}  // namespace phasor
