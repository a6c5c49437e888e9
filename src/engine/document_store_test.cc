// Documents found in a store are what reading them would have left, or labelled as not that.
#include "engine/document_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "cache/kv_cache.h"
#include "tests/support/child_process.h"
#include "tests/support/tiny_model.h"

namespace phasor {
namespace {

using testing::kModels;
using testing::kRelativeTolerance;
using testing::Load;
using testing::NewSession;
using testing::Probe;
using testing::RandomTokens;

using Tokens = std::vector<int32_t>;

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

class DocumentStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "phasor_documents_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::shared_ptr<ChunkStore> Chunks(bool on_disk = true) {
    ChunkStoreOptions options;
    if (on_disk) options.folder = folder_;
    auto chunks = ChunkStore::Open(options);
    EXPECT_TRUE(chunks.ok()) << chunks.status().message();
    return std::move(chunks).value();
  }

  DocumentStore Store(std::shared_ptr<ChunkStore> chunks, uint64_t max_shared_bytes = 1 << 30) {
    DocumentStoreOptions options;
    options.max_shared_bytes = max_shared_bytes;
    options.on_warning = [this](const Status& s) { warnings_.push_back(s); };
    return DocumentStore(std::move(chunks), std::move(options));
  }

  DocumentReport Read(DocumentStore& store, const Tokens& tokens, Session& session,
                      DocumentReuse reuse = DocumentReuse::kExact) {
    auto report = store.Read(tokens, {.reuse = reuse}, &session);
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? *report : DocumentReport();
  }

  std::string folder_;
  std::vector<Status> warnings_;
};

TEST_F(DocumentStoreTest, AnExactHitGivesTheLogitsOfReadingBitForBit) {
  for (const char* name : kModels) {
    for (const char* type : {"f32", "f16", "q8_0"}) {
      SCOPED_TRACE(std::string(name) + " " + type);
      std::filesystem::remove_all(folder_);
      const auto model = Load(name);
      Rng rng(1);
      const Tokens a = RandomTokens(*model, 210, rng), b = RandomTokens(*model, 37, rng);
      const Tokens question = RandomTokens(*model, 90, rng);
      // Plain reading, then a store that holds nothing, then one that holds both documents.
      auto plain = NewSession(*model, 64, type);
      ASSERT_TRUE(plain->Append(a, {}).ok());
      auto plain_fork = plain->Fork().value();
      const std::vector<float> after_a = Probe(*plain_fork, question[0]);
      std::vector<std::unique_ptr<Session>> sessions;
      for (const DocumentSource expected : {DocumentSource::kRead, DocumentSource::kExact}) {
        sessions.push_back(NewSession(*model, 64, type));
        Session& session = *sessions.back();
        DocumentStore store = Store(Chunks());
        EXPECT_EQ(Read(store, a, session).source, expected);
        // The first document is what a plain reading leaves.
        auto fork = session.Fork().value();
        EXPECT_TRUE(SameBits(after_a, Probe(*fork, question[0])));
        fork.reset();
        const DocumentReport report = Read(store, b, session);
        EXPECT_EQ(report.source, expected);
        EXPECT_EQ(report.n_tokens, 37);
        EXPECT_GT(report.bytes, 0u);
        EXPECT_TRUE(session.logits().empty());
        EXPECT_EQ(session.cache_stats().n_stale_tokens, 0);
        ASSERT_TRUE(session.Append(question, {}).ok());
      }
      EXPECT_EQ(sessions[0]->tokens(), sessions[1]->tokens());
      EXPECT_TRUE(SameBits(sessions[0]->logits(), sessions[1]->logits()));
      // Later tokens, one at a time and past the next page, too.
      for (int i = 0; i < 30; ++i) {
        ASSERT_TRUE(SameBits(Probe(*sessions[0], question[i]), Probe(*sessions[1], question[i])));
      }
      if (type != std::string("f32")) continue;
      // In float, where pages lose nothing, a plain reading of all of it says the same.
      ASSERT_TRUE(plain->Append(b, {}).ok() && plain->Append(question, {}).ok());
      const std::vector<float> expected = {plain->logits().begin(), plain->logits().end()};
      auto again = NewSession(*model, 64, type);
      DocumentStore store = Store(Chunks());
      Read(store, a, *again);
      Read(store, b, *again);
      ASSERT_TRUE(again->Append(question, {}).ok());
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(again->logits()[i], expected[i],
                    kRelativeTolerance * testing::Largest(expected));
      }
    }
  }
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DocumentStoreTest, AnotherLeftContextIsApproximateOrReadAndNeverExact) {
  const auto model = Load(kModels[0]);
  Rng rng(2);
  const Tokens document = RandomTokens(*model, 200, rng), left = RandomTokens(*model, 50, rng);
  DocumentStore store = Store(Chunks());
  auto first = NewSession(*model);
  EXPECT_EQ(Read(store, document, *first).source, DocumentSource::kRead);
  auto strict = NewSession(*model), loose = NewSession(*model);
  ASSERT_TRUE(strict->Append(left, {}).ok() && loose->Append(left, {}).ok());
  // Approximate is asked for before the exact entry exists.
  const DocumentReport moved = Read(store, document, *loose, DocumentReuse::kApproximate);
  EXPECT_EQ(moved.source, DocumentSource::kApproximate);
  EXPECT_EQ(loose->cache_stats().n_stale_tokens, 200);
  EXPECT_EQ(loose->cache().PositionOf(50), 50 * kTicksPerPosition);
  EXPECT_EQ(loose->cache().next_position(), 250 * kTicksPerPosition);
  EXPECT_EQ(Read(store, document, *strict).source, DocumentSource::kRead);
  EXPECT_EQ(strict->cache_stats().n_stale_tokens, 0);
  // Now that it is there, the exact entry goes first.
  auto third = NewSession(*model);
  ASSERT_TRUE(third->Append(left, {}).ok());
  EXPECT_EQ(Read(store, document, *third, DocumentReuse::kApproximate).source,
            DocumentSource::kExact);
  EXPECT_EQ(third->cache_stats().n_stale_tokens, 0);
  // What comes behind stale text is never exact, nor kept as if it were.
  const Tokens more = RandomTokens(*model, 60, rng);
  auto exact = NewSession(*model);
  ASSERT_TRUE(exact->Append(left, {}).ok());
  Read(store, document, *exact);
  EXPECT_EQ(Read(store, more, *loose).source, DocumentSource::kRead);
  EXPECT_EQ(Read(store, more, *exact).source, DocumentSource::kRead);
  ASSERT_TRUE(loose->Truncate(250).ok());
  EXPECT_EQ(Read(store, more, *loose).source, DocumentSource::kRead);
  EXPECT_EQ(loose->cache_stats().n_stale_tokens, 200);
}

TEST_F(DocumentStoreTest, ALeftContextIsKnownOnlyOfTextAsPlainReadingLeavesIt) {
  const auto model = Load(kModels[0]);
  Rng rng(3);
  const Tokens text = RandomTokens(*model, 200, rng);
  auto plain = NewSession(*model);
  EXPECT_TRUE(LeftContextOf(*plain).known);
  EXPECT_EQ(LeftContextOf(*plain).n_tokens, 0u);
  ASSERT_TRUE(plain->Append(text, {}).ok());
  EXPECT_EQ(LeftContextOf(*plain), LeftContext(text));
  const auto edited = [&](const std::function<void(Session&)>& edit) {
    auto session = plain->Fork().value();
    edit(*session);
    return LeftContextOf(*session).known;
  };
  EXPECT_TRUE(edited([](Session& s) { EXPECT_TRUE(s.Truncate(70).ok()); }));
  EXPECT_FALSE(edited([](Session& s) { EXPECT_TRUE(s.Erase(10, 20).ok()); }));
  EXPECT_FALSE(edited([](Session& s) { EXPECT_TRUE(s.Copy(0, 10, 30).ok()); }));
  EXPECT_FALSE(
      edited([](Session& s) { s.cache().SetNextPosition(s.cache().next_position() + 1); }));
  EXPECT_FALSE(edited([](Session& s) {
    const TextSpan span = s.Slice(190, 200).value();
    EXPECT_TRUE(s.Truncate(190).ok());
    AttachOptions attach;
    attach.same_left_context = true;
    attach.group = 1;
    EXPECT_TRUE(s.Attach(span, attach).ok());
  }));
  EXPECT_FALSE(edited([&](Session& s) {
    RopeParams rope = model->config().rope;
    rope.theta_base *= 2;
    EXPECT_TRUE(s.SetSchedule(rope).ok());
  }));
  EXPECT_FALSE(edited([&](Session& s) {
    const PositionTicks far[] = {400 * kTicksPerPosition};
    AppendOptions options;
    options.positions = far;
    EXPECT_TRUE(s.Append(std::span(text).subspan(0, 1), options).ok());
  }));
}

TEST_F(DocumentStoreTest, SessionsOfOneKvStoreShareTheBlocksWithinTheBudget) {
  const auto model = Load(kModels[0]);
  Rng rng(4);
  const Tokens document = RandomTokens(*model, 300, rng), other = RandomTokens(*model, 300, rng);
  const Tokens question = RandomTokens(*model, 200, rng);
  DocumentStore store = Store(Chunks(/*on_disk=*/false));
  auto a = NewSession(*model);
  SessionOptions options = a->options();
  options.store = a->store();
  EXPECT_FALSE(Read(store, document, *a).shared);
  const int n_codes = a->store()->n_blocks_in_use(KvBlockKind::kCodes);
  EXPECT_GT(n_codes, 0);
  auto b = Session::Create(*model, options).value();
  auto c = Session::Create(*model, options).value();
  const DocumentReport report = Read(store, document, *b);
  EXPECT_EQ(report.source, DocumentSource::kExact);
  EXPECT_TRUE(report.shared);
  EXPECT_GT(report.bytes, 0u);
  EXPECT_EQ(a->store()->n_blocks_in_use(KvBlockKind::kCodes), n_codes);
  // Growing one of them leaves the others: equal bits whoever writes first.
  ASSERT_TRUE(a->Append(question, {}).ok());
  ASSERT_TRUE(b->Append(question, {}).ok());
  Read(store, document, *c);
  ASSERT_TRUE(c->Append(question, {}).ok());
  EXPECT_TRUE(SameBits(a->logits(), b->logits()));
  EXPECT_TRUE(SameBits(a->logits(), c->logits()));
  // A budget for one document: the older one is dropped, and found in the chunk store.
  const uint64_t one = store.shared_bytes();
  {
    DocumentStore narrow = Store(Chunks(/*on_disk=*/false), one + one / 2);
    for (const Tokens* tokens : {&document, &other, &document}) {
      a->Clear();
      const DocumentReport r = Read(narrow, *tokens, *a);
      EXPECT_FALSE(r.shared);
      EXPECT_LE(narrow.shared_bytes(), one + one / 2);
      EXPECT_GT(narrow.shared_bytes(), 0u);
    }
  }
  // Nothing is kept for stores that are gone.
  a.reset();
  b.reset();
  c.reset();
  options.store.reset();
  auto fresh = NewSession(*model);
  EXPECT_EQ(Read(store, other, *fresh).source, DocumentSource::kRead);
  EXPECT_LE(store.shared_bytes(), one + one / 4);
}

TEST_F(DocumentStoreTest, AnotherProcessAndAnotherStoreOnTheFolderFindIt) {
  Rng rng(5);
  Tokens document;
  const pid_t child = testing::StartChild([&] {
    const auto model = Load(kModels[1]);
    Rng child_rng(5);
    DocumentStore store = Store(Chunks());
    auto session = NewSession(*model);
    const auto r = store.Read(RandomTokens(*model, 150, child_rng), {}, session.get());
    return r.ok() && r->source == DocumentSource::kRead ? 0 : 1;
  });
  EXPECT_EQ(testing::WaitForChild(child), 0);
  const auto model = Load(kModels[1]);
  document = RandomTokens(*model, 150, rng);
  for (int i = 0; i < 2; ++i) {
    DocumentStore store = Store(Chunks());
    auto session = NewSession(*model);
    EXPECT_EQ(Read(store, document, *session).source, DocumentSource::kExact);
  }
}

TEST_F(DocumentStoreTest, AForeignModelTypeOrScheduleNeverHits) {
  const auto llama = Load("llama_gqa_tied.gguf"), untied = Load("qwen2.gguf");
  Rng rng(6);
  const Tokens document = RandomTokens(*llama, 100, rng);
  DocumentStore store = Store(Chunks());
  const auto source = [&](const LoadedModel& model, const char* type, double base_factor) {
    SessionOptions options = NewSession(model, 512, type)->options();
    options.rope = model.config().rope;
    options.rope->theta_base *= base_factor;
    auto session = Session::Create(model, options).value();
    return Read(store, document, *session, DocumentReuse::kApproximate).source;
  };
  EXPECT_EQ(source(*llama, "f16", 1), DocumentSource::kRead);
  EXPECT_EQ(source(*untied, "f16", 1), DocumentSource::kRead);
  EXPECT_EQ(source(*llama, "q8_0", 1), DocumentSource::kRead);
  EXPECT_EQ(source(*llama, "f16", 4), DocumentSource::kRead);
  EXPECT_EQ(source(*llama, "f16", 1), DocumentSource::kExact);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(DocumentStoreTest, ADamagedEntryIsOneWarningAndReadAgain) {
  const auto model = Load(kModels[0]);
  Rng rng(7);
  const Tokens document = RandomTokens(*model, 150, rng), question = RandomTokens(*model, 9, rng);
  auto good = NewSession(*model), bad = NewSession(*model), healed = NewSession(*model);
  std::string name;
  {
    DocumentStore store = Store(Chunks());
    name = Read(store, document, *good).name;
  }
  const std::string path = folder_ + "/" + name + ".span";
  std::string bytes = ReadFile(path).value();
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  auto writer = AtomicFileWriter::Create(path);
  ASSERT_TRUE(writer.ok() && writer->Write(bytes).ok() && writer->Commit().ok());
  {
    DocumentStore store = Store(Chunks());
    EXPECT_EQ(Read(store, document, *bad).source, DocumentSource::kRead);
  }
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(warnings_[0].code(), StatusCode::kDataCorrupt);
  EXPECT_NE(warnings_[0].message().find(name), std::string::npos);
  DocumentStore store = Store(Chunks());
  EXPECT_EQ(Read(store, document, *healed).source, DocumentSource::kExact);
  EXPECT_EQ(warnings_.size(), 1u);
  for (Session* session : {good.get(), bad.get(), healed.get()}) {
    ASSERT_TRUE(session->Append(question, {}).ok());
    EXPECT_TRUE(SameBits(session->logits(), good->logits()));
  }
}

TEST_F(DocumentStoreTest, AStoreThatCannotKeepADocumentIsAWarning) {
  const auto model = Load(kModels[0]);
  Rng rng(8);
  ChunkStoreOptions options;
  options.folder = folder_;
  options.max_disk_bytes = 1000;
  DocumentStore store = Store(ChunkStore::Open(options).value());
  auto session = NewSession(*model);
  const DocumentReport report = Read(store, RandomTokens(*model, 100, rng), *session);
  EXPECT_EQ(report.source, DocumentSource::kRead);
  EXPECT_EQ(report.name, "");
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(warnings_[0].code(), StatusCode::kResourceExhausted);
}

TEST_F(DocumentStoreTest, WithoutReuseNothingIsLookedUpOrKept) {
  const auto model = Load(kModels[0]);
  Rng rng(9);
  const Tokens document = RandomTokens(*model, 50, rng);
  const auto chunks = Chunks(/*on_disk=*/false);
  DocumentStore store = Store(chunks);
  for (int i = 0; i < 2; ++i) {
    auto session = NewSession(*model);
    EXPECT_EQ(Read(store, document, *session, DocumentReuse::kNone).source, DocumentSource::kRead);
    EXPECT_TRUE(chunks->List()->empty());
    EXPECT_EQ(store.shared_bytes(), 0u);
  }
}

TEST_F(DocumentStoreTest, AnErrorOrACancellationLeavesTheSession) {
  const auto model = Load(kModels[0]);
  Rng rng(10);
  const Tokens text = RandomTokens(*model, 100, rng), document = RandomTokens(*model, 300, rng);
  DocumentStore store = Store(Chunks());
  auto session = NewSession(*model, 64), twin = NewSession(*model, 64);
  ASSERT_TRUE(session->Append(text, {}).ok() && twin->Append(text, {}).ok());
  std::atomic<bool> cancel = false;
  ReadDocumentOptions options;
  options.cancel = &cancel;
  int64_t last = 0;
  options.on_progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 300);
    last = done;
    cancel = done >= 128;
  };
  EXPECT_EQ(store.Read(document, options, session.get()).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(last, 128);
  EXPECT_EQ(store.Read({}, {}, session.get()).status().code(), StatusCode::kInvalidArgument);
  const Tokens bad = {1 << 30};
  EXPECT_EQ(store.Read(bad, {}, session.get()).status().code(), StatusCode::kInvalidArgument);
  const Tokens huge = RandomTokens(*model, 413, rng);  // of a context of 512
  EXPECT_EQ(store.Read(huge, {}, session.get()).status().code(), StatusCode::kOutOfRange);
  EXPECT_TRUE(store.Read(document, {}, session.get()).ok());  // and a good one still works
  ASSERT_TRUE(session->Truncate(100).ok());
  EXPECT_EQ(session->tokens(), twin->tokens());
  const std::vector<float> a = Probe(*session, 5), b = Probe(*twin, 5);
  EXPECT_TRUE(SameBits(a, b));
}

}  // namespace
}  // namespace phasor
