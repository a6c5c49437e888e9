// The chunk store when processes die, share a folder, or find the disk full.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "store/chunk_store.h"
#include "tests/support/child_process.h"
#include "tests/support/span_builder.h"

namespace phasor {
namespace {

using phasor::testing::ChunkSpan;
using phasor::testing::MemorySpan;
using phasor::testing::StartChild;
using phasor::testing::WaitForChild;

constexpr int kSkipped = 77;  // exit status of a child that cannot do what it is for

// In a child a failure is a line on stderr and an exit status.
#define CHILD_EXPECT(condition)                                                     \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      return 1;                                                                     \
    }                                                                               \
  } while (0)

class ChunkStoreCrash : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "phasor_chunk_crash_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static SpanFingerprint Fingerprint(uint32_t page_bytes) {
    Rng rng(3);
    SpanFingerprint f = testing::RandomFingerprint(rng, 1, 1, 1);
    f.n_layers = 2;
    f.n_kv_heads = 2;
    f.page_tokens = 16;
    f.layers.assign(2, {"frame4", "q4_head", "f16", "f16", 0});
    f.head_bytes.assign(4, {32, 32, page_bytes, page_bytes});
    return f;
  }
  // The same seed gives the same span, in every process.
  static MemorySpan SpanOf(uint64_t seed, uint32_t n_tokens, uint32_t page_bytes) {
    Rng rng(seed);
    return ChunkSpan(rng, Fingerprint(page_bytes), n_tokens, LeftContext({}));
  }
  static std::unique_ptr<ChunkStore> OpenStore(const std::string& folder,
                                               uint64_t max_disk_bytes = UINT64_MAX) {
    auto store = ChunkStore::Open({.folder = folder, .max_disk_bytes = max_disk_bytes});
    PHASOR_CHECK(store.ok());
    return std::move(store).value();
  }
  static int CountTemporaries(const std::string& folder) {
    int n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      n += entry.path().filename().string().find(".tmp-") != std::string::npos;
    }
    return n;
  }

  std::string folder_;
};

TEST_F(ChunkStoreCrash, KilledWritersLoseNothingAndLeaveNothing) {
  constexpr int kKills = 50;
  constexpr uint32_t kTokens = 16 * 16, kPageBytes = 4096;  // 16 blocks, 512 KiB of pages
  constexpr uint64_t kMaxDelayUs = 40'000;
  std::map<std::string, std::string> old_bytes;
  const auto path_of = [&](const std::string& name) { return folder_ + "/" + name + ".span"; };
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    auto name = OpenStore(folder_)->Put(SpanOf(seed, kTokens, kPageBytes));
    ASSERT_TRUE(name.ok()) << name.status().message();
    old_bytes[*name] = ReadFile(path_of(*name)).value();
  }
  Rng rng(1);
  int n_killed_while_writing = 0, n_new = 0;
  for (int kill_index = 0; kill_index < kKills; ++kill_index) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = StartChild([&] {
      auto store = OpenStore(folder_);
      CHILD_EXPECT(::write(ready[1], "r", 1) == 1);
      for (uint64_t i = 0;; ++i) {
        CHILD_EXPECT(store->Put(SpanOf(1000 + kill_index * 1000 + i, kTokens, kPageBytes)).ok());
      }
      return 1;
    });
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
    std::this_thread::sleep_for(std::chrono::microseconds(rng.Below(kMaxDelayUs)));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    ASSERT_EQ(WaitForChild(child), -SIGKILL);

    n_killed_while_writing += CountTemporaries(folder_);
    auto store = OpenStore(folder_);
    ASSERT_EQ(CountTemporaries(folder_), 0);
    auto entries = store->List();
    ASSERT_TRUE(entries.ok());
    std::size_t n_old = 0;
    for (const ChunkEntry& e : *entries) {
      const Status status = store->Verify(e.name);
      ASSERT_TRUE(status.ok()) << "kill " << kill_index << ": " << status.message();
      if (old_bytes.contains(e.name)) {
        ++n_old;
        ASSERT_EQ(ReadFile(path_of(e.name)).value(), old_bytes[e.name]);
      } else {
        ++n_new;
        ASSERT_TRUE(store->Remove(e.name).ok());
      }
    }
    ASSERT_EQ(n_old, old_bytes.size());
  }
  std::printf("killed while writing: %d of %d; entries finished before: %d\n",
              n_killed_while_writing, kKills, n_new);
  // Otherwise this test saw nothing.
  EXPECT_GT(n_killed_while_writing, 0);
}

TEST_F(ChunkStoreCrash, OpeningLeavesTheTemporariesOfLiveWritersAlone) {
  auto store = OpenStore(folder_);
  std::string target = std::string(32, 'a') + "-" + std::string(32, 'b') + ".span";
  auto writer = AtomicFileWriter::Create(folder_ + "/" + target);
  ASSERT_TRUE(writer.ok() && writer->Write("not done").ok());
  ASSERT_EQ(CountTemporaries(folder_), 1);
  const pid_t child = StartChild([&] {
    OpenStore(folder_);
    return 0;
  });
  ASSERT_EQ(WaitForChild(child), 0);
  OpenStore(folder_);
  EXPECT_EQ(CountTemporaries(folder_), 1);
  EXPECT_TRUE(writer->Commit().ok());
  EXPECT_TRUE(FileExists(folder_ + "/" + target));
}

TEST_F(ChunkStoreCrash, ProcessesMayPutTheSameAndOtherSpansAtOnce) {
  constexpr uint64_t kSame = 15, kOwn = 15;
  constexpr int kProcesses = 3;
  constexpr uint32_t kTokens = 40, kPageBytes = 2000;
  OpenStore(folder_);
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    children.push_back(StartChild([&, p] {
      auto store = OpenStore(folder_);
      for (uint64_t i = 0; i < kSame; ++i) {
        CHILD_EXPECT(store->Put(SpanOf((i + p) % kSame, kTokens, kPageBytes)).ok());
        CHILD_EXPECT(store->Put(SpanOf(100 * (p + 1) + i, kTokens, kPageBytes)).ok());
        // Whatever is listed is whole, whoever wrote it.
        auto entries = store->List();
        CHILD_EXPECT(entries.ok() && !entries->empty());
        CHILD_EXPECT(store->Verify((*entries)[i % entries->size()].name).ok());
      }
      return 0;
    }));
  }
  for (pid_t child : children) EXPECT_EQ(WaitForChild(child), 0);
  auto store = OpenStore(folder_);
  auto entries = store->List();
  ASSERT_TRUE(entries.ok());
  EXPECT_EQ(entries->size(), kSame + kProcesses * kOwn);
  for (const ChunkEntry& e : *entries) EXPECT_TRUE(store->Verify(e.name).ok());
  EXPECT_EQ(CountTemporaries(folder_), 0);
}

TEST_F(ChunkStoreCrash, ProcessesThatEvictAtOnceKeepTheBudgetAndWhatIsPinned) {
  constexpr int kProcesses = 3;
  constexpr uint64_t kEach = 15, kBudgetEntries = 4;
  constexpr uint32_t kTokens = 40, kPageBytes = 2000;
  const MemorySpan pinned = SpanOf(1, kTokens, kPageBytes);
  const uint64_t budget = kBudgetEntries * SpanFileBytes(pinned.header());
  auto store = OpenStore(folder_, budget);
  const std::string name = store->Put(pinned).value();
  ASSERT_TRUE(store->Pin(name).ok());
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    children.push_back(StartChild([&, p] {
      auto own = OpenStore(folder_, budget);
      for (uint64_t i = 0; i < kEach; ++i) {
        CHILD_EXPECT(own->Put(SpanOf(100 * (p + 1) + i, kTokens, kPageBytes)).ok());
        CHILD_EXPECT(own->Verify(name).ok());
      }
      return 0;
    }));
  }
  for (pid_t child : children) EXPECT_EQ(WaitForChild(child), 0);
  uint64_t total = 0;
  auto entries = store->List();
  ASSERT_TRUE(entries.ok());
  for (const ChunkEntry& e : *entries) {
    EXPECT_TRUE(store->Verify(e.name).ok());
    total += e.bytes;
  }
  EXPECT_LE(total, budget);
  EXPECT_EQ(entries->size(), kBudgetEntries);
  EXPECT_TRUE(store->Verify(name).ok());
}

// Puts spans until the disk, or a limit, says no; then everything that was there is there, nothing
// else is, and a small one still fits.
int FillUntilRefused(const std::string& folder, const std::vector<MemorySpan>& spans,
                     const MemorySpan& small) {
  auto opened = ChunkStore::Open({.folder = folder});
  CHILD_EXPECT(opened.ok());
  ChunkStore& store = **opened;
  std::vector<std::string> names;
  Status refused;
  for (const MemorySpan& span : spans) {
    auto name = store.Put(span);
    if (!name.ok()) {
      refused = name.status();
      break;
    }
    names.push_back(*name);
  }
  CHILD_EXPECT(refused.code() == StatusCode::kResourceExhausted);
  CHILD_EXPECT(!refused.message().empty());
  auto entries = store.List();
  CHILD_EXPECT(entries.ok() && entries->size() == names.size());
  for (const std::string& name : names) CHILD_EXPECT(store.Verify(name).ok());
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    CHILD_EXPECT(file.path().filename().string().find(".tmp-") == std::string::npos);
  }
  CHILD_EXPECT(store.Put(small).ok());
  return 0;
}

TEST_F(ChunkStoreCrash, AFileSizeLimitIsOneClearErrorAndKeepsWhatWasThere) {
  const std::vector<MemorySpan> spans = {SpanOf(1, 40, 1000), SpanOf(2, 160, 4000)};
  const MemorySpan small = SpanOf(3, 10, 1000);
  const uint64_t limit = SpanFileBytes(spans[1].header()) - 1;
  ASSERT_LT(SpanFileBytes(spans[0].header()), limit);
  const pid_t child = StartChild([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit file_size = {limit, limit};
    CHILD_EXPECT(::setrlimit(RLIMIT_FSIZE, &file_size) == 0);
    return FillUntilRefused(folder_, spans, small);
  });
  EXPECT_EQ(WaitForChild(child), 0);
}

TEST_F(ChunkStoreCrash, AFullDiskIsOneClearErrorAndKeepsWhatWasThere) {
  std::filesystem::create_directories(folder_);
  std::vector<MemorySpan> spans;
  for (uint64_t i = 0; i < 20; ++i) spans.push_back(SpanOf(i, 160, 4000));
  const MemorySpan small = SpanOf(99, 10, 100);
  const pid_t child = StartChild([&] {
    // A file system of 1 MiB that only this child sees.
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=1m") != 0) {
      std::printf("no file system of its own: %s\n", std::strerror(errno));
      return kSkipped;
    }
    return FillUntilRefused(folder_, spans, small);
  });
  const int rc = WaitForChild(child);
  if (rc == kSkipped) GTEST_SKIP() << "needs the right to mount a small tmpfs";
  EXPECT_EQ(rc, 0);
}

}  // namespace
}  // namespace phasor
