// Editing a session's text: against sessions that read the edited text from its start. In a model
// of one layer a key or value depends on its token alone, so every edit is exact there; in deeper
// models what follows an edit remembers its former left context, and only what is read again is.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "cache/kv_cache.h"
#include "engine/engine.h"
#include "registry/kv_codec_table.h"
#include "tests/golden/golden_support.h"

namespace phasor {
namespace {

using ::phasor::testing::ArgMax;
using ::phasor::testing::CollectLogits;
using ::phasor::testing::GoldenPath;
using ::phasor::testing::KlDivergence;
using ::phasor::testing::MaxAbsDifference;
using ::phasor::testing::ReadGoldenFile;

using Tokens = std::vector<int32_t>;
using Rest = ReplaceOptions::Rest;

// The bound of the paper's acceptance, relative to the largest logit: turned queries round cosines
// and sines to 2^-24 once more, and sums run in another order.
constexpr double kExact = 1e-5;
// Logits of two runs that must differ: anything encoded at another place moves them by more.
constexpr double kDifferent = 1e-3;
constexpr int kVocab = 260;  // byte tokens that every golden tokenizer has

Tokens RandomTokens(int64_t n, uint64_t seed) {
  Rng rng(seed);
  Tokens tokens(n);
  for (int32_t& t : tokens) t = static_cast<int32_t>(3 + rng.Below(kVocab - 3));
  return tokens;
}

std::unique_ptr<LoadedModel> Load(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.precision = MatMulPrecision::kF32;
  options.n_threads = 2;
  options.use_calibration = false;
  Result<std::unique_ptr<LoadedModel>> model = LoadedModel::Load(options);
  if (!model.ok()) ADD_FAILURE() << model.status().message();
  return model.ok() ? std::move(*model) : nullptr;
}

// A golden model's first layer alone, between its embedding and its output matrix.
std::unique_ptr<LoadedModel> LoadOneLayer(const std::string& name) {
  const std::string folder = ::testing::TempDir() + "/one_layer_" + name;
  std::filesystem::remove_all(folder);
  std::filesystem::copy(GoldenPath("models/" + name), folder);
  nlohmann::json config = nlohmann::json::parse(ReadGoldenFile("models/" + name + "/config.json"));
  config["num_hidden_layers"] = 1;
  config.erase("layer_types");
  std::ofstream(folder + "/config.json") << config.dump();
  std::unique_ptr<LoadedModel> model = Load(folder);
  std::filesystem::remove_all(folder);
  if (model != nullptr) {
    EXPECT_EQ(model->config().n_layers, 1);
  }
  return model;
}

SessionOptions Exact() {
  SessionOptions options;
  options.n_ctx = 2048;
  options.type_k = options.type_v = "f32";
  return options;
}

std::unique_ptr<Session> Open(const LoadedModel& model, const SessionOptions& options = Exact()) {
  auto session = Session::Create(model, options);
  if (!session.ok()) ADD_FAILURE() << session.status().message();
  return session.ok() ? std::move(*session) : nullptr;
}

std::unique_ptr<Session> OpenWith(const LoadedModel& model, const Tokens& text,
                                  const SessionOptions& options = Exact()) {
  std::unique_ptr<Session> session = Open(model, options);
  const Status status = session->Append(text, {});
  EXPECT_TRUE(status.ok()) << status.message();
  return session;
}

std::vector<float> Copy(std::span<const float> x) { return {x.begin(), x.end()}; }

// Logits behind the text and along a continuation of it; the session is left as it was.
std::vector<float> Ahead(const Session& session) {
  static const Tokens kContinuation = RandomTokens(12, 4711);
  std::unique_ptr<Session> fork = session.Fork().value();
  EXPECT_TRUE(fork->RefreshLogits().ok());
  std::vector<float> all = Copy(fork->logits());
  const std::vector<float> more = CollectLogits(*fork, kContinuation, kContinuation.size());
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

double Largest(std::span<const float> x) {
  double largest = 0;
  for (float v : x) largest = std::max(largest, std::fabs(static_cast<double>(v)));
  return largest;
}

// The session's text as a new session reads it.
std::vector<float> Fresh(const Session& session) {
  return Ahead(*OpenWith(session.model(), session.tokens(), session.options()));
}

void ExpectExact(const Session& session, const Tokens& text, const char* what) {
  ASSERT_EQ(session.tokens(), text) << what;
  ASSERT_EQ(session.n_tokens(), static_cast<int64_t>(text.size())) << what;
  const std::vector<float> expected = Fresh(session);
  EXPECT_LE(MaxAbsDifference(Ahead(session), expected), kExact * Largest(expected)) << what;
}

Tokens Edited(Tokens text, int64_t begin, int64_t end, const Tokens& tokens) {
  text.erase(text.begin() + begin, text.begin() + end);
  text.insert(text.begin() + begin, tokens.begin(), tokens.end());
  return text;
}

class OneLayer : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = LoadOneLayer(GetParam());
    ASSERT_NE(model_, nullptr);
  }
  std::unique_ptr<LoadedModel> model_;
};

TEST_P(OneLayer, ReplacingTextIsExactWithoutReadingTheRestAgain) {
  const Tokens text = RandomTokens(400, 1);
  const std::unique_ptr<Session> base = OpenWith(*model_, text);
  struct Edit {
    int64_t begin, end, n;
  };
  for (const Edit& e : {Edit{200, 200, 7}, Edit{200, 231, 0}, Edit{90, 100, 25}, Edit{0, 3, 9},
                        Edit{2, 6, 1}, Edit{390, 400, 5}, Edit{400, 400, 3}, Edit{0, 390, 0}}) {
    const Tokens added = RandomTokens(e.n, 2);
    std::unique_ptr<Session> session = base->Fork().value();
    const Result<ReplaceReport> report = session->Replace(e.begin, e.end, added);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(report->n_removed, e.end - e.begin);
    EXPECT_EQ(report->n_inserted, e.n);
    EXPECT_EQ(report->n_read, e.n);
    EXPECT_EQ(report->n_reused, 400 - e.end);
    ExpectExact(*session, Edited(text, e.begin, e.end, added),
                ("[" + std::to_string(e.begin) + ", " + std::to_string(e.end) + ")").c_str());
  }
  ExpectExact(*base, text, "the session that was forked");
}

TEST_P(OneLayer, MovingCopyingErasingAndInsertingTextIsExact) {
  Tokens text = RandomTokens(300, 3);
  const std::unique_ptr<Session> session = OpenWith(*model_, text);
  ASSERT_TRUE(session->Erase(40, 71).ok());
  text = Edited(text, 40, 71, {});
  ExpectExact(*session, text, "erase");
  ASSERT_TRUE(session->Move(200, 230, 20).ok());
  std::rotate(text.begin() + 20, text.begin() + 200, text.begin() + 230);
  ExpectExact(*session, text, "move");
  ASSERT_TRUE(session->Copy(10, 35, 150).ok());
  text = Edited(text, 150, 150, Tokens(text.begin() + 10, text.begin() + 35));
  ExpectExact(*session, text, "copy");
  // Text of another session over the same store.
  SessionOptions options = session->options();
  options.store = session->store();
  const Tokens other_text = RandomTokens(50, 4);
  const std::unique_ptr<Session> other = OpenWith(*model_, other_text, options);
  ASSERT_TRUE(session->Insert(99, other->Slice(8, 50).value()).ok());
  text = Edited(text, 99, 99, Tokens(other_text.begin() + 8, other_text.end()));
  ExpectExact(*session, text, "insert");
  EXPECT_GT(session->cache_stats().n_stale_tokens, 0);
}

TEST_P(OneLayer, PositionsDoNotDriftOverAHundredEdits) {
  Tokens text = RandomTokens(350, 5);
  const std::unique_ptr<Session> session = OpenWith(*model_, text);
  Rng rng(6);
  for (int i = 0; i < 100; ++i) {
    const auto begin = static_cast<int64_t>(rng.Below(text.size()));
    const int64_t end =
        std::min<int64_t>(begin + static_cast<int64_t>(rng.Below(8)), session->n_tokens());
    const Tokens added = RandomTokens(static_cast<int64_t>(rng.Below(8)), 100 + i);
    const auto report = session->Replace(begin, end, added, {.recompute = i % 3 * 0.05});
    ASSERT_TRUE(report.ok()) << report.status().message();
    text = Edited(text, begin, end, added);
  }
  ExpectExact(*session, text, "after all");
}

INSTANTIATE_TEST_SUITE_P(Models, OneLayer,
                         ::testing::Values("llama_gqa_tied", "llama_partial", "llama_yarn",
                                           "mistral", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

class SessionEdit : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = Load(GoldenPath("models/llama_quantized.gguf"));
    ASSERT_NE(model_, nullptr);
    ASSERT_GT(model_->config().n_layers, 1);
  }
  std::unique_ptr<LoadedModel> model_;
  const Tokens text_ = RandomTokens(300, 7);
};

// What a session says about its text and where it stands.
void ExpectSame(const Session& a, const Session& b) {
  EXPECT_EQ(a.tokens(), b.tokens());
  ASSERT_EQ(a.n_tokens(), b.n_tokens());
  EXPECT_EQ(Copy(a.logits()), Copy(b.logits()));
  EXPECT_EQ(a.cache_stats().n_stale_tokens, b.cache_stats().n_stale_tokens);
  for (int64_t i = 0; i <= a.n_tokens(); ++i) {
    ASSERT_EQ(a.cache().PositionOf(i), b.cache().PositionOf(i)) << i;
    if (i < a.n_tokens()) {
      ASSERT_EQ(a.cache().AnyPinned(i, i + 1), b.cache().AnyPinned(i, i + 1)) << i;
    }
  }
  EXPECT_EQ(Ahead(a), Ahead(b));
}

TEST_F(SessionEdit, ReadingTheWholeRestAgainEqualsAFreshSession) {
  for (const ReplaceOptions& options :
       {ReplaceOptions{.recompute = 1.0}, ReplaceOptions{.rest = Rest::kReread}}) {
    const std::unique_ptr<Session> session = OpenWith(*model_, text_);
    const Tokens added = RandomTokens(11, 8);
    const auto report = session->Replace(100, 120, added, options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(report->n_reused, 0);
    EXPECT_EQ(report->n_read, 11 + 180);
    EXPECT_EQ(session->cache_stats().n_stale_tokens, 0);
    // Reading on leaves logits behind, those of the newest token.
    EXPECT_EQ(session->logits().size(), static_cast<std::size_t>(model_->config().n_vocab));
    ExpectExact(*session, Edited(text_, 100, 120, added), "recompute 1");
  }
}

TEST_F(SessionEdit, WithoutADifferenceInTextNothingChanges) {
  const std::unique_ptr<Session> session = OpenWith(*model_, text_);
  ASSERT_TRUE(session->Replace(100, 100, {}).ok());
  EXPECT_EQ(session->cache_stats().n_stale_tokens, 0);
  ExpectExact(*session, text_, "nothing replaced by nothing");
}

TEST_F(SessionEdit, ReusedTextIsStaleAndCloserThanTextThatStaysAtItsOldPlace) {
  const std::unique_ptr<Session> base = OpenWith(*model_, text_);
  for (const int64_t n_added : {0, 20}) {
    const Tokens added = RandomTokens(n_added, 9);
    const auto kl_of = [&](const ReplaceOptions& options) {
      std::unique_ptr<Session> session = base->Fork().value();
      EXPECT_TRUE(session->Replace(150, 160, added, options).ok());
      EXPECT_EQ(session->tokens(), Edited(text_, 150, 160, added));
      EXPECT_EQ(session->cache_stats().n_stale_tokens,
                options.rest == Rest::kReread ? 0 : 140 - std::llround(140 * options.recompute));
      const std::vector<float> got = Ahead(*session), want = Fresh(*session);
      const auto vocab = static_cast<std::size_t>(model_->config().n_vocab);
      double kl = 0;
      for (std::size_t at = 0; at < got.size(); at += vocab) {
        kl += KlDivergence(std::span(want).subspan(at, vocab), std::span(got).subspan(at, vocab));
      }
      return kl;
    };
    const double pie = kl_of({}), stay = kl_of({.rest = Rest::kStay});
    // Honest words: exact positions are not exact reuse. The rest never saw the edit.
    EXPECT_GT(pie, 1e-6);
    EXPECT_LT(pie, stay);
    // The nearer the re-read part comes to all of the rest, the nearer the result to a fresh one.
    EXPECT_LT(kl_of({.recompute = 0.95}), pie);
  }
}

TEST_F(SessionEdit, TextThatStaysKeepsItsPositions) {
  const std::unique_ptr<Session> base = OpenWith(*model_, text_);
  const Tokens longer = RandomTokens(15, 10), equal = RandomTokens(10, 11);
  std::unique_ptr<Session> moved = base->Fork().value(), stayed = base->Fork().value();
  ASSERT_TRUE(moved->Replace(100, 110, longer).ok());
  ASSERT_TRUE(stayed->Replace(100, 110, longer, {.rest = Rest::kStay}).ok());
  EXPECT_EQ(moved->cache().PositionOf(115), 115 * kTicksPerPosition);
  EXPECT_EQ(stayed->cache().PositionOf(115), 110 * kTicksPerPosition);
  EXPECT_EQ(moved->cache().next_position(), 305 * kTicksPerPosition);
  EXPECT_EQ(stayed->cache().next_position(), 300 * kTicksPerPosition);
  EXPECT_GT(MaxAbsDifference(Ahead(*moved), Ahead(*stayed)), kDifferent);
  // Equal lengths: there is nothing to move.
  moved = base->Fork().value(), stayed = base->Fork().value();
  ASSERT_TRUE(moved->Replace(100, 110, equal).ok());
  ASSERT_TRUE(stayed->Replace(100, 110, equal, {.rest = Rest::kStay}).ok());
  EXPECT_EQ(Ahead(*moved), Ahead(*stayed));
}

TEST_F(SessionEdit, ErrorsAndCancellationLeaveTheSessionAsItWas) {
  SessionOptions options = Exact();
  options.n_ctx = 310;
  options.n_batch = 4;
  for (const char* type : {"f32", "q4_0"}) {
    options.type_k = options.type_v = type;
    const std::unique_ptr<Session> session = OpenWith(*model_, text_, options);
    // A history: moved, stale and pinned tokens, and logits of the newest.
    ASSERT_TRUE(session->Replace(20, 25, RandomTokens(3, 12)).ok());
    ASSERT_TRUE(session->Pin(2, 8).ok());
    ASSERT_TRUE(session->Pin(200, 210).ok());
    ASSERT_TRUE(session->RefreshLogits().ok());
    const std::unique_ptr<Session> before = session->Fork().value();
    const auto expect_failure = [&](StatusCode code, int64_t begin, int64_t end,
                                    const Tokens& tokens, const ReplaceOptions& replace) {
      const Result<ReplaceReport> report = session->Replace(begin, end, tokens, replace);
      ASSERT_FALSE(report.ok());
      EXPECT_EQ(report.status().code(), code) << report.status().message();
      ExpectSame(*session, *before);
    };
    const std::atomic<bool> stop = true;
    expect_failure(StatusCode::kCancelled, 100, 101, RandomTokens(9, 13), {.cancel = &stop});
    expect_failure(StatusCode::kCancelled, 0, 1, RandomTokens(9, 13), {.cancel = &stop});
    // The last token of the second chunk cannot be read: the first one had been.
    Tokens bad = RandomTokens(8, 14);
    bad.back() = model_->config().n_vocab;
    expect_failure(StatusCode::kInvalidArgument, 100, 108, bad, {});
    expect_failure(StatusCode::kOutOfRange, 290, 299, {}, {});
    expect_failure(StatusCode::kOutOfRange, 5, 4, {}, {});
    expect_failure(StatusCode::kOutOfRange, 50, 50, RandomTokens(13, 15), {});  // n_ctx
    expect_failure(StatusCode::kInvalidArgument, 0, 3, {}, {});                 // pinned
    expect_failure(StatusCode::kInvalidArgument, 50, 60, {}, {.recompute = 1.5});
    expect_failure(StatusCode::kInvalidArgument, 50, 60, {}, {.recompute = NAN});
    EXPECT_FALSE(session->Erase(205, 206).ok());
    EXPECT_FALSE(session->Truncate(100).ok());
    EXPECT_FALSE(session->Move(10, 20, 15).ok());
    EXPECT_FALSE(session->Attach(OpenWith(*model_, text_, options)->Slice(0, 4).value()).ok());
    ExpectSame(*session, *before);
  }
}

TEST_F(SessionEdit, PinsOfTheRestSurviveWhetherItIsReadAgainOrNot) {
  for (const double share : {0.0, 0.5, 1.0}) {
    const std::unique_ptr<Session> session = OpenWith(*model_, text_);
    ASSERT_TRUE(session->Pin(10, 20).ok());
    ASSERT_TRUE(session->Pin(110, 130).ok());
    ASSERT_TRUE(session->Pin(290, 295).ok());
    ASSERT_TRUE(session->Replace(100, 102, RandomTokens(7, 16), {.recompute = share}).ok());
    for (int64_t i = 0; i < session->n_tokens(); ++i) {
      const bool expected = (10 <= i && i < 20) || (115 <= i && i < 135) || (295 <= i && i < 300);
      ASSERT_EQ(session->cache().AnyPinned(i, i + 1), expected) << i << " at share " << share;
    }
  }
}

TEST_F(SessionEdit, RefreshedLogitsAreThoseOfTheNewestToken) {
  for (const int64_t n : {1, 3, 100, 300}) {
    const std::unique_ptr<Session> session =
        OpenWith(*model_, Tokens(text_.begin(), text_.begin() + n));
    const std::vector<float> expected = Copy(session->logits());
    ASSERT_TRUE(session->Pin(n - 1, n).ok());
    ASSERT_TRUE(session->RefreshLogits().ok());
    EXPECT_LE(MaxAbsDifference(session->logits(), expected), kExact * Largest(expected)) << n;
    EXPECT_EQ(session->n_tokens(), n);
    EXPECT_TRUE(session->cache().AnyPinned(n - 1, n));
    EXPECT_EQ(session->cache().next_position(), n * kTicksPerPosition);
  }
  EXPECT_EQ(Open(*model_)->RefreshLogits().code(), StatusCode::kInvalidArgument);
}

TEST_F(SessionEdit, ForksGoTheirOwnWays) {
  for (const char* type : {"f32", "q4_0"}) {
    SessionOptions options = Exact();
    options.type_k = options.type_v = type;
    options.n_recent = 16;
    const std::unique_ptr<Session> a = OpenWith(*model_, text_, options);
    const std::unique_ptr<Session> alone = OpenWith(*model_, text_, options);
    const std::unique_ptr<Session> b = a->Fork().value();
    ExpectSame(*a, *b);
    const Tokens left = RandomTokens(150, 17), right = RandomTokens(150, 18);
    ASSERT_TRUE(b->Append(right, {}).ok());
    ASSERT_TRUE(a->Append(left, {}).ok());
    ASSERT_TRUE(alone->Append(left, {}).ok());
    ExpectSame(*a, *alone);
    ASSERT_TRUE(b->Truncate(10).ok());
    ASSERT_TRUE(b->Append(right, {}).ok());
    ExpectSame(*a, *alone);
    // The store outlives the session that made it.
    const std::unique_ptr<Session> c = [&] {
      const std::unique_ptr<Session> gone = OpenWith(*model_, text_, options);
      return gone->Fork().value();
    }();
    ASSERT_TRUE(c->Append(left, {}).ok());
    ExpectSame(*c, *alone);
  }
}

TEST_F(SessionEdit, ABatchEqualsSeparateSessions) {
  const std::vector<Tokens> texts = {RandomTokens(40, 19), RandomTokens(170, 20),
                                     RandomTokens(5, 21)};
  const std::vector<Tokens> next = {RandomTokens(1, 22), RandomTokens(9, 23), RandomTokens(3, 24)};
  std::vector<std::unique_ptr<Session>> together, apart;
  for (const Tokens& text : texts) {
    together.push_back(OpenWith(*model_, text));
    apart.push_back(OpenWith(*model_, text));
  }
  std::vector<BatchAppend> items;
  for (std::size_t i = 0; i < texts.size(); ++i) items.push_back({together[i].get(), next[i], {}});
  const auto vocab = static_cast<std::size_t>(model_->config().n_vocab);
  std::vector<std::vector<float>> rows(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) rows[i].assign(next[i].size() * vocab, NAN);
  const Status status =
      AppendBatch(items, [&](int item, int64_t index, std::span<const float> logits) {
        std::copy(logits.begin(), logits.end(), rows[item].begin() + index * vocab);
      });
  ASSERT_TRUE(status.ok()) << status.message();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::vector<float> expected = CollectLogits(*apart[i], next[i], next[i].size());
    EXPECT_LE(MaxAbsDifference(rows[i], expected), kExact * Largest(expected)) << i;
    EXPECT_EQ(together[i]->tokens(), apart[i]->tokens());
    EXPECT_EQ(ArgMax(together[i]->logits()), ArgMax(apart[i]->logits()));
    const std::vector<float> ahead = Ahead(*apart[i]);
    EXPECT_LE(MaxAbsDifference(Ahead(*together[i]), ahead), kExact * Largest(ahead)) << i;
  }
}

TEST_F(SessionEdit, ABatchThatFailsChangesNoSession) {
  const std::unique_ptr<Session> a = OpenWith(*model_, text_), b = OpenWith(*model_, text_);
  const std::unique_ptr<Session> before = a->Fork().value();
  const Tokens good = RandomTokens(4, 25), bad = {5, model_->config().n_vocab};
  const std::unique_ptr<LoadedModel> other_model = Load(GoldenPath("models/qwen2.gguf"));
  const std::unique_ptr<Session> other = OpenWith(*other_model, text_);
  const std::vector<BatchAppend> batches[] = {
      {{a.get(), good, {}}, {b.get(), bad, {}}},
      {{a.get(), good, {}}, {b.get(), {}, {}}},
      {{a.get(), good, {}}, {other.get(), good, {}}},
  };
  for (const auto& batch : batches) {
    EXPECT_EQ(AppendBatch(batch).code(), StatusCode::kInvalidArgument);
    ExpectSame(*a, *before);
    ExpectSame(*b, *before);
  }
  EXPECT_TRUE(AppendBatch({}).ok());
}

TEST_F(SessionEdit, AShiftingContextGoesOnWithEveryCacheTypeAndKeepsWhatItMust) {
  const Tokens prompt = RandomTokens(290, 26);
  for (const KvCodecInfo& info : KvCodecs()) {
    SCOPED_TRACE(info.id);
    SessionOptions options = Exact();
    options.n_ctx = 320;
    options.n_recent = 16;
    options.context_shift = true;
    options.n_keep = 10;
    options.type_k = info.for_keys ? info.id : "f16";
    options.type_v = info.for_values ? info.id : "f16";
    const std::unique_ptr<Session> session = OpenWith(*model_, prompt, options);
    ASSERT_TRUE(session->Pin(100, 120).ok());
    GenerateOptions generate;
    generate.sampler.temperature = 0;
    generate.ignore_eos = true;
    generate.max_tokens = 500;
    const auto result = session->Generate(generate, {});
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_EQ(result->tokens.size(), 500u);
    EXPECT_EQ(result->reason, FinishReason::kLength);
    ASSERT_LE(session->n_tokens(), 320);
    EXPECT_EQ(session->n_tokens(), static_cast<int64_t>(session->tokens().size()));
    const Tokens& now = session->tokens();
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.begin() + 10, now.begin()));
    // What lay between is gone by now, so the pinned tokens follow the kept ones.
    EXPECT_TRUE(std::equal(prompt.begin() + 100, prompt.begin() + 120, now.begin() + 10));
    EXPECT_TRUE(session->cache().AnyPinned(10, 11));
    EXPECT_FALSE(session->cache().AnyPinned(30, session->n_tokens()));
    // The newest tokens are those that were generated last, and text stands without gaps.
    EXPECT_TRUE(std::equal(now.begin() + 30, now.end(), result->tokens.end() - (now.size() - 30)));
    EXPECT_EQ(session->cache().next_position(), session->n_tokens() * kTicksPerPosition);
    for (const float x : session->logits()) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST_F(SessionEdit, AContextThatCannotShiftSaysSo) {
  SessionOptions options = Exact();
  options.n_ctx = 310;
  const std::unique_ptr<Session> fixed = OpenWith(*model_, text_, options);
  EXPECT_EQ(fixed->Append(RandomTokens(11, 27), {}).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(fixed->n_tokens(), 300);
  options.context_shift = true;
  const std::unique_ptr<Session> shifting = OpenWith(*model_, text_, options);
  ASSERT_TRUE(shifting->Pin(0, 300).ok());
  EXPECT_EQ(shifting->Append(RandomTokens(11, 27), {}).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(shifting->tokens(), text_);
  ASSERT_TRUE(shifting->Pin(0, 300, false).ok());
  EXPECT_TRUE(shifting->Append(RandomTokens(11, 27), {}).ok());
  EXPECT_EQ(shifting->n_tokens(), 161);
}

}  // namespace
}  // namespace phasor
