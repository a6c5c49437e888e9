// The chunk store in one process, in memory and on disk.
#include "store/chunk_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "tests/support/span_builder.h"

namespace phasor {
namespace {

using phasor::testing::ChunkSpan;
using phasor::testing::MemorySpan;
using phasor::testing::RandomFingerprint;

// Every test runs with a folder and without one.
class ChunkStoreTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!GetParam()) return;
    std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::replace(test.begin(), test.end(), '/', '_');
    folder_ = ::testing::TempDir() + "phasor_chunk_store_" + test;
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  // Budgets apply to the disk, or to memory where there is none.
  std::unique_ptr<ChunkStore> Open(uint64_t max_bytes = UINT64_MAX) {
    ChunkStoreOptions options;
    options.folder = folder_;
    (folder_.empty() ? options.max_memory_bytes : options.max_disk_bytes) = max_bytes;
    auto store = ChunkStore::Open(options);
    EXPECT_TRUE(store.ok()) << store.status().message();
    return std::move(store).value();
  }
  static ChunkQuery QueryFor(const MemorySpan& span, const SpanContext& left, bool approximate) {
    return {.fingerprint = &span.span.fingerprint,
            .tokens = span.span.tokens,
            .left_context = left,
            .distances = {},
            .allow_approximate = approximate};
  }
  static std::vector<ChunkEntry> ListOf(const ChunkStore& store) {
    auto entries = store.List();
    EXPECT_TRUE(entries.ok());
    return std::move(entries).value();
  }

  std::string folder_;
  Rng rng_{11};
  SpanFingerprint fingerprint_ = RandomFingerprint(rng_, 2, 2, 100);
};

INSTANTIATE_TEST_SUITE_P(Places, ChunkStoreTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "OnDisk" : "InMemory"; });

TEST_P(ChunkStoreTest, AHitIsExactOnlyWithTheSameLeftContext) {
  auto store = Open();
  const std::vector<int32_t> left = {1, 2, 3}, other = {1, 2, 4}, longer = {0, 1, 2, 3};
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 50, LeftContext(left));
  const auto name = store->Put(span);
  ASSERT_TRUE(name.ok()) << name.status().message();

  for (bool approximate : {false, true}) {
    auto hit = store->Find(QueryFor(span, LeftContext(left), approximate));
    ASSERT_TRUE(hit.ok()) << hit.status().message();
    EXPECT_EQ(hit->match, ChunkMatch::kExact);
    EXPECT_EQ(hit->name, *name);
    EXPECT_EQ(hit->span->header(), span.header());
    testing::MemorySink sink;
    ASSERT_TRUE(CopySpan(*hit->span, &sink).ok());
    EXPECT_EQ(sink.span.pages, span.pages);
  }
  for (const SpanContext& context :
       {LeftContext(other), LeftContext(longer), LeftContext({}), SpanContext{}}) {
    EXPECT_EQ(store->Find(QueryFor(span, context, false)).status().code(), StatusCode::kNotFound);
    auto hit = store->Find(QueryFor(span, context, true));
    ASSERT_TRUE(hit.ok()) << hit.status().message();
    EXPECT_EQ(hit->match, ChunkMatch::kApproximate);
    EXPECT_EQ(hit->name, *name);
  }
}

TEST_P(ChunkStoreTest, ASpanWithoutKnownContextIsNeverExact) {
  auto store = Open();
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 9, SpanContext{});
  ASSERT_TRUE(store->Put(span).ok());
  for (const SpanContext& context : {SpanContext{}, LeftContext({})}) {
    EXPECT_EQ(store->Find(QueryFor(span, context, false)).status().code(), StatusCode::kNotFound);
    auto hit = store->Find(QueryFor(span, context, true));
    ASSERT_TRUE(hit.ok());
    EXPECT_EQ(hit->match, ChunkMatch::kApproximate);
  }
}

TEST_P(ChunkStoreTest, TheExactEntryIsPreferredToANewerApproximateOne) {
  auto store = Open();
  const std::vector<int32_t> a = {1}, b = {2}, c = {3};
  MemorySpan span = ChunkSpan(rng_, fingerprint_, 20, LeftContext(a));
  const auto name_a = store->Put(span);
  span.span.left_context = LeftContext(b);
  const auto name_b = store->Put(span);
  ASSERT_TRUE(name_a.ok() && name_b.ok());
  EXPECT_NE(*name_a, *name_b);
  auto exact = store->Find(QueryFor(span, LeftContext(a), true));
  ASSERT_TRUE(exact.ok());
  EXPECT_EQ(exact->name, *name_a);
  EXPECT_EQ(exact->match, ChunkMatch::kExact);
  // Approximate ones: the one used last, which is a.
  auto approximate = store->Find(QueryFor(span, LeftContext(c), true));
  ASSERT_TRUE(approximate.ok());
  EXPECT_EQ(approximate->match, ChunkMatch::kApproximate);
  EXPECT_EQ(approximate->name, *name_a);
}

TEST_P(ChunkStoreTest, OtherTokensDistancesOrFingerprintsAreNoHit) {
  auto store = Open();
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 30, LeftContext({}));
  ASSERT_TRUE(store->Put(span).ok());
  MemorySpan other = span;
  other.span.tokens[29] += 1;
  EXPECT_EQ(store->Find(QueryFor(other, LeftContext({}), true)).status().code(),
            StatusCode::kNotFound);
  other = span;
  other.span.tokens.pop_back();
  EXPECT_EQ(store->Find(QueryFor(other, LeftContext({}), true)).status().code(),
            StatusCode::kNotFound);
  other = span;
  other.span.fingerprint.rope_hash ^= 1;
  EXPECT_EQ(store->Find(QueryFor(other, LeftContext({}), true)).status().code(),
            StatusCode::kNotFound);
  std::vector<int64_t> distances;
  for (int i = 0; i < 30; ++i) distances.push_back(i * kPositionOne);
  ChunkQuery query = QueryFor(span, LeftContext({}), true);
  query.distances = distances;
  EXPECT_TRUE(store->Find(query).ok());
  distances[29] += 1;
  EXPECT_EQ(store->Find(query).status().code(), StatusCode::kNotFound);
  distances.pop_back();
  query.distances = distances;
  EXPECT_EQ(store->Find(query).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(ChunkStoreTest, WhereASpanStandsDoesNotMatter) {
  auto store = Open();
  MemorySpan span = ChunkSpan(rng_, fingerprint_, 30, LeftContext({}));
  const auto name = store->Put(span);
  for (SpanPiece& piece : span.span.pieces) piece.shift += 1000 * kPositionOne;
  EXPECT_EQ(store->Put(span).value(), *name);
  EXPECT_EQ(ListOf(*store).size(), 1u);
}

TEST_P(ChunkStoreTest, UnknownNamesAreOneClearErrorAndChangeNothing) {
  auto store = Open();
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 10, LeftContext({}));
  const std::string name = store->Put(span).value();
  std::string unknown = name;
  unknown[0] = unknown[0] == 'a' ? 'b' : 'a';
  for (const std::string& bad : {unknown, std::string(), std::string("../../etc/passwd"),
                                 name + "0", std::string(65, '-')}) {
    EXPECT_EQ(store->Load(bad, fingerprint_).status().code(), StatusCode::kNotFound) << bad;
    EXPECT_EQ(store->Verify(bad).code(), StatusCode::kNotFound) << bad;
    EXPECT_EQ(store->Remove(bad).code(), StatusCode::kNotFound) << bad;
    EXPECT_EQ(store->Pin(bad).code(), StatusCode::kNotFound) << bad;
    EXPECT_EQ(store->Unpin(bad).code(), StatusCode::kNotFound) << bad;
  }
  SpanFingerprint other = fingerprint_;
  other.tokenizer_hash = "other";
  const Status status = store->Load(name, other).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("tokenizer hash: expected \"other\""), std::string::npos);
  EXPECT_TRUE(store->Load(name, fingerprint_).ok());
  EXPECT_EQ(ListOf(*store).size(), 1u);
}

TEST_P(ChunkStoreTest, TheLeastRecentlyUsedGoesFirstAndPinnedEntriesNever) {
  constexpr uint64_t kEntries = 6;
  std::vector<MemorySpan> spans;
  for (uint64_t i = 0; i < kEntries; ++i) {
    spans.push_back(ChunkSpan(rng_, fingerprint_, 40, LeftContext({})));
  }
  const uint64_t size = SpanFileBytes(spans[0].header());
  auto store = Open(3 * size);
  std::vector<std::string> names;
  const auto has = [&](int i) { return store->Verify(names[i]).ok(); };
  for (int i = 0; i < 3; ++i) names.push_back(store->Put(spans[i]).value());
  ASSERT_TRUE(store->Pin(names[0]).ok());
  ASSERT_TRUE(store->Load(names[1], fingerprint_).ok());  // used after 2
  names.push_back(store->Put(spans[3]).value());
  EXPECT_TRUE(has(0) && has(1) && !has(2) && has(3));
  names.push_back(store->Put(spans[4]).value());
  EXPECT_TRUE(has(0) && !has(1) && has(3) && has(4));
  EXPECT_EQ(store->Remove(names[0]).code(), StatusCode::kInvalidArgument);

  ASSERT_TRUE(store->Pin(names[3]).ok() && store->Pin(names[4]).ok());
  EXPECT_EQ(store->Put(spans[5]).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store->Prune(size).code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(has(0) && has(3) && has(4));
  ASSERT_TRUE(store->Unpin(names[3]).ok() && store->Unpin(names[4]).ok());
  EXPECT_TRUE(store->Prune(size).ok());
  EXPECT_TRUE(has(0) && !has(3) && !has(4));
  ASSERT_TRUE(store->Unpin(names[0]).ok());
  EXPECT_TRUE(store->Remove(names[0]).ok());
  EXPECT_TRUE(ListOf(*store).empty());
}

TEST_P(ChunkStoreTest, ASpanInUseOutlivesItsEntry) {
  auto store = Open();
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 300, LeftContext({}));
  const std::string name = store->Put(span).value();
  auto held = store->Load(name, fingerprint_);
  ASSERT_TRUE(held.ok());
  ASSERT_TRUE(store->Remove(name).ok());
  EXPECT_EQ(store->Find(QueryFor(span, LeftContext({}), true)).status().code(),
            StatusCode::kNotFound);
  testing::MemorySink sink;
  ASSERT_TRUE(CopySpan(**held, &sink).ok());
  EXPECT_EQ(sink.span.pages, span.pages);
}

TEST_P(ChunkStoreTest, ThreadsShareIt) {
  constexpr int kThreads = 4, kRounds = 10;
  auto store = Open();
  std::vector<MemorySpan> spans;
  for (int i = 0; i < kRounds; ++i) {
    spans.push_back(ChunkSpan(rng_, fingerprint_, 20, LeftContext({})));
  }
  std::vector<int> n_hits(kThreads, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const MemorySpan& span = spans[(i + t) % kRounds];
        n_hits[t] +=
            store->Put(span).ok() && store->Find(QueryFor(span, LeftContext({}), false)).ok();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(n_hits, std::vector<int>(kThreads, kRounds));
  EXPECT_EQ(ListOf(*store).size(), static_cast<std::size_t>(kRounds));
}

class ChunkStoreOnDisk : public ChunkStoreTest {
 protected:
  void Damage(const std::string& name, std::size_t at) {
    std::string bytes = ReadFile(PathOf(name)).value();
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    auto writer = AtomicFileWriter::Create(PathOf(name));
    ASSERT_TRUE(writer.ok() && writer->Write(bytes).ok() && writer->Commit().ok());
  }
  std::string PathOf(const std::string& name) const { return folder_ + "/" + name + ".span"; }
};
INSTANTIATE_TEST_SUITE_P(Places, ChunkStoreOnDisk, ::testing::Values(true),
                         [](const auto&) { return "OnDisk"; });

TEST_P(ChunkStoreOnDisk, EntriesSurviveReopeningAndOpenSpansAreShared) {
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 60, LeftContext({}));
  const std::string name = Open()->Put(span).value();
  auto store = Open();
  auto first = store->Find(QueryFor(span, LeftContext({}), false));
  auto second = store->Find(QueryFor(span, LeftContext({}), false));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->span, second->span);
  EXPECT_EQ(store->memory_bytes(), first->span->size_bytes());
}

TEST_P(ChunkStoreOnDisk, ADamagedEntryIsAnErrorUntilItIsPutAgain) {
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 60, LeftContext({}));
  const std::vector<int32_t> other = {5};
  const std::string name = Open()->Put(span).value();
  Damage(name, std::filesystem::file_size(PathOf(name)) - 1);
  auto store = Open();
  EXPECT_EQ(store->Verify(name).code(), StatusCode::kDataCorrupt);
  EXPECT_EQ(store->Load(name, fingerprint_).status().code(), StatusCode::kDataCorrupt);
  const Status status = store->Find(QueryFor(span, LeftContext({}), true)).status();
  EXPECT_EQ(status.code(), StatusCode::kDataCorrupt);
  EXPECT_NE(status.message().find("checksum of block"), std::string::npos) << status.message();
  EXPECT_EQ(store->Find(QueryFor(span, LeftContext(other), true)).status().code(),
            StatusCode::kDataCorrupt);
  EXPECT_EQ(store->Put(span).value(), name);
  EXPECT_TRUE(store->Verify(name).ok());
  EXPECT_TRUE(store->Find(QueryFor(span, LeftContext({}), false)).ok());
}

TEST_P(ChunkStoreOnDisk, AFileUnderAnotherNameIsRefused) {
  auto store = Open();
  const MemorySpan a = ChunkSpan(rng_, fingerprint_, 10, LeftContext({}));
  const MemorySpan b = ChunkSpan(rng_, fingerprint_, 10, LeftContext({}));
  const std::string name_a = store->Put(a).value(), name_b = KeyOf(b.header()).Name();
  std::filesystem::copy_file(PathOf(name_a), PathOf(name_b));
  EXPECT_EQ(store->Verify(name_b).code(), StatusCode::kDataCorrupt);
  EXPECT_EQ(store->Find(QueryFor(b, LeftContext({}), true)).status().code(),
            StatusCode::kDataCorrupt);
  EXPECT_TRUE(store->Find(QueryFor(a, LeftContext({}), true)).ok());
}

TEST_P(ChunkStoreOnDisk, AFutureFileIsRefusedWithTheReason) {
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 10, LeftContext({}));
  const std::string name = Open()->Put(span).value();
  Damage(name, offsetof(SpanPreamble, version));  // 1 becomes 0
  Damage(name, offsetof(SpanPreamble, version) + 1);
  const Status status = Open()->Find(QueryFor(span, LeftContext({}), false)).status();
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("expected version 1, found 256: written by a newer phasor"),
            std::string::npos)
      << status.message();
}

TEST_P(ChunkStoreOnDisk, AnEntryTooLargeForMemoryIsServedAndNotKept) {
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 60, LeftContext({}));
  auto store = ChunkStore::Open({.folder = folder_, .max_memory_bytes = 1});
  ASSERT_TRUE(store.ok() && (*store)->Put(span).ok());
  auto hit = (*store)->Find(QueryFor(span, LeftContext({}), false));
  ASSERT_TRUE(hit.ok());
  EXPECT_EQ(hit->span->header(), span.header());
  EXPECT_EQ((*store)->memory_bytes(), 0u);
}

TEST_P(ChunkStoreOnDisk, FilesOfOthersInTheFolderAreLeftAlone) {
  const MemorySpan span = ChunkSpan(rng_, fingerprint_, 10, LeftContext({}));
  Open();
  for (const char* name : {"/notes.txt", "/short.span", "/x.tmp-1-0123456789abcdef"}) {
    auto writer = AtomicFileWriter::Create(folder_ + name);
    ASSERT_TRUE(writer.ok() && writer->Write("mine").ok() && writer->Commit().ok());
  }
  auto store = Open();
  ASSERT_TRUE(store->Put(span).ok());
  EXPECT_EQ(ListOf(*store).size(), 1u);
  EXPECT_TRUE(store->Prune(0).ok());
  for (const char* name : {"/notes.txt", "/short.span", "/x.tmp-1-0123456789abcdef"}) {
    EXPECT_EQ(ReadFile(folder_ + name).value(), "mine");
  }
}

}  // namespace
}  // namespace phasor
