// Contexts read apart, on the tiny golden models: what must equal ordinary reading, what must not
// depend on the order, and what must not be read again.
#include "engine/parallel_contexts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/rng.h"
#include "cache/kv_cache.h"

namespace phasor {
namespace {

const std::string kModels = std::string(PHASOR_SOURCE_DIR) + "/tests/golden/models/";
// Largest difference of logits over the largest logit. Float sums in another order, of some hundred
// terms through two layers, differ by a few 2^-24 = 6e-8 of them; an actual
// difference is 0.01 or more.
constexpr double kExact = 1e-5;

std::vector<int32_t> Tokens(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens(static_cast<std::size_t>(n));
  for (int32_t& t : tokens) t = static_cast<int32_t>(5 + rng.Below(250));
  return tokens;
}

std::unique_ptr<LoadedModel> Load(const std::string& path) {
  LoadOptions options;
  options.path = path;
  options.n_threads = 2;
  options.precision = MatMulPrecision::kF32;
  options.use_calibration = false;
  Result<std::unique_ptr<LoadedModel>> model = LoadedModel::Load(options);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return model.ok() ? std::move(*model) : nullptr;
}

// A session over an exact cache that has read `prefix`.
std::unique_ptr<Session> Start(const LoadedModel& model, std::span<const int32_t> prefix,
                               const char* type = "f32", int64_t n_ctx = 4096) {
  SessionOptions options;
  options.n_ctx = n_ctx;
  options.type_k = options.type_v = type;
  options.n_recent = 32;
  auto session = Session::Create(model, options);
  EXPECT_TRUE(session.ok()) << session.status().message();
  if (!prefix.empty()) {
    EXPECT_TRUE((*session)->Append(prefix, {}).ok());
  }
  return std::move(*session);
}

std::vector<float> LogitsAfter(Session& session, std::span<const int32_t> tokens,
                               std::size_t chunk = 1 << 20) {
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const auto part = tokens.subspan(at, std::min(chunk, tokens.size() - at));
    EXPECT_TRUE(session.Append(part, {}).ok());
  }
  return {session.logits().begin(), session.logits().end()};
}

// Largest |a - b| over the largest |a|; infinity for a NaN, other sizes or none.
double Worst(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size() || a.empty()) return INFINITY;
  double worst = 0, top = 0;
  for (float x : a) top = std::max(top, std::abs(static_cast<double>(x)));
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
  }
  return worst / top;
}

std::vector<ParallelContext> Fresh(const std::vector<std::vector<int32_t>>& texts) {
  std::vector<ParallelContext> contexts;
  for (const auto& text : texts) contexts.push_back({.tokens = text});
  return contexts;
}

std::vector<ParallelContext> Again(const std::vector<TextSpan>& spans) {
  std::vector<ParallelContext> contexts;
  for (const TextSpan& span : spans) contexts.push_back({.encoded = &span});
  return contexts;
}

TEST(ParallelContexts, OneContextAtNeutralScaleEqualsReadingOn) {
  for (const char* name : {"llama_gqa_tied", "llama_mha_untied", "llama_partial", "llama_yarn",
                           "llama_llama3", "mistral", "qwen2", "qwen3"}) {
    const auto model = Load(kModels + name);
    ASSERT_NE(model, nullptr) << name;
    // Prefixes within and beyond a page, none; contexts that end inside a page and on its edge.
    for (const auto& [n_prefix, n_context] : {std::pair{7, 40}, {150, 300}, {3, 128}, {0, 90}}) {
      const auto prefix = Tokens(n_prefix, 1), context = Tokens(n_context, 2), query = Tokens(9, 3);
      auto plain = Start(*model, prefix), parallel = Start(*model, prefix);
      LogitsAfter(*plain, context);
      const auto report = AttachParallelContexts(*parallel, Fresh({context}),
                                                 {.temperature = 1, .scale = 1, .batch = 64});
      ASSERT_TRUE(report.ok()) << report.status().message();
      EXPECT_EQ(report->n_read, n_context);
      EXPECT_EQ(parallel->tokens(), plain->tokens());
      EXPECT_EQ(parallel->cache().next_position(), plain->cache().next_position());
      EXPECT_EQ(parallel->cache_stats().n_stale_tokens, 0);
      EXPECT_LE(Worst(LogitsAfter(*plain, query), LogitsAfter(*parallel, query)), kExact)
          << name << " prefix " << n_prefix << " context " << n_context;
    }
  }
}

TEST(ParallelContexts, AnyOrderOfContextsGivesTheSameLogits) {
  const auto model = Load(kModels + "llama_gqa_tied");
  const auto prefix = Tokens(20, 1), query = Tokens(6, 9);
  const std::vector<std::vector<int32_t>> texts = {Tokens(50, 2), Tokens(131, 3), Tokens(1, 4),
                                                   Tokens(260, 5)};
  for (const auto& [t, s] : {std::pair{1.0f, 1.0f}, {0.9f, 0.9f}, {0.4f, 0.7f}}) {
    const ParallelOptions options = {.temperature = t, .scale = s};
    auto first = Start(*model, prefix);
    const auto report = AttachParallelContexts(*first, Fresh(texts), options);
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(first->cache().next_position(), (20 + 260) * kTicksPerPosition);
    const std::vector<float> logits = LogitsAfter(*first, query);
    for (const std::vector<int>& order : {std::vector{3, 2, 1, 0}, {1, 3, 0, 2}}) {
      std::vector<std::vector<int32_t>> moved;
      for (int i : order) moved.push_back(texts[i]);
      auto other = Start(*model, prefix);
      ASSERT_TRUE(AttachParallelContexts(*other, Fresh(moved), options).ok());
      EXPECT_LE(Worst(logits, LogitsAfter(*other, query)), kExact);
      // Ordinary reading does depend on it, so the bound above could be missed.
      auto plain = Start(*model, prefix), plain_moved = Start(*model, prefix);
      for (const auto& text : texts) LogitsAfter(*plain, text);
      for (const auto& text : moved) LogitsAfter(*plain_moved, text);
      EXPECT_GT(Worst(LogitsAfter(*plain, query), LogitsAfter(*plain_moved, query)), 0.01);
    }
  }
}

TEST(ParallelContexts, ContextsAreReadOnThePrefixAlone) {
  // Whatever else is in the batch, and however it is cut, keys and values are those of the prefix
  // and the context read on their own.
  const auto model = Load(kModels + "qwen2");
  const auto prefix = Tokens(33, 1), query = Tokens(4, 8);
  const std::vector<std::vector<int32_t>> texts = {Tokens(70, 2), Tokens(5, 3), Tokens(200, 4)};
  auto together = Start(*model, prefix);
  const auto report = AttachParallelContexts(*together, Fresh(texts), {.batch = 50});
  ASSERT_TRUE(report.ok()) << report.status().message();
  ASSERT_EQ(report->contexts.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(report->contexts[i].tokens, texts[i]);
    auto alone = Start(*model, prefix), attached = together->Fork().value();
    ASSERT_TRUE(attached->Truncate(33).ok());
    ASSERT_TRUE(
        attached->Attach(report->contexts[i], {.position = {}, .same_left_context = true}).ok());
    LogitsAfter(*alone, texts[i]);
    EXPECT_LE(Worst(LogitsAfter(*alone, query), LogitsAfter(*attached, query)), kExact) << i;
  }
}

TEST(ParallelContexts, PrefillAndDecodeOfTheQueryAgree) {
  const auto model = Load(kModels + "llama_gqa_tied");
  const auto prefix = Tokens(20, 1), query = Tokens(40, 9);
  const std::vector<std::vector<int32_t>> texts = {Tokens(150, 2), Tokens(90, 3), Tokens(140, 4)};
  auto whole = Start(*model, prefix);
  ASSERT_TRUE(
      AttachParallelContexts(*whole, Fresh(texts), {.temperature = 0.6f, .scale = 0.8f}).ok());
  auto one_by_one = whole->Fork().value(), in_threes = whole->Fork().value();
  const std::vector<float> logits = LogitsAfter(*whole, query);
  EXPECT_LE(Worst(logits, LogitsAfter(*one_by_one, query, 1)), kExact);
  EXPECT_LE(Worst(logits, LogitsAfter(*in_threes, query, 3)), kExact);
  // And they are not what neutral scales give.
  auto naive = Start(*model, prefix);
  ASSERT_TRUE(AttachParallelContexts(*naive, Fresh(texts), {.temperature = 1, .scale = 1}).ok());
  EXPECT_GT(Worst(logits, LogitsAfter(*naive, query)), 0.01);
}

TEST(ParallelContexts, EncodedContextsAreUsedAgainWithoutReadingAToken) {
  const auto model = Load(kModels + "llama_gqa_tied");
  const auto prefix = Tokens(20, 1), query = Tokens(6, 9);
  const std::vector<std::vector<int32_t>> texts = {Tokens(50, 2), Tokens(300, 3), Tokens(64, 4)};
  auto session = Start(*model, prefix);
  int64_t last_done = 0;
  ParallelOptions options;
  options.batch = 100;
  options.on_progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 414);
    EXPECT_GT(done, last_done);
    last_done = done;
  };
  const auto first = AttachParallelContexts(*session, Fresh(texts), options);
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_EQ(last_done, 414);
  EXPECT_GT(first->bytes, 0u);
  const std::vector<float> logits = LogitsAfter(*session, query);

  options.on_progress = [](int64_t, int64_t) { ADD_FAILURE() << "something was read"; };
  ASSERT_TRUE(session->Truncate(20).ok());
  const auto second = AttachParallelContexts(*session, Again(first->contexts), options);
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_EQ(second->n_read, 0);
  EXPECT_EQ(second->n_reused, 414);
  EXPECT_EQ(session->cache_stats().n_stale_tokens, 0);
  EXPECT_LE(Worst(logits, LogitsAfter(*session, query)), kExact);

  // Some anew and some again; another prefix of another length makes the old ones stale.
  SessionOptions other_options = session->options();
  other_options.store = session->store();
  auto other = Session::Create(*model, other_options).value();
  ASSERT_TRUE(other->Append(Tokens(31, 7), {}).ok());
  const std::vector<ParallelContext> mixed = {
      {.encoded = &first->contexts[1], .same_prefix = false}, {.tokens = texts[0]}};
  options.on_progress = nullptr;
  const auto third = AttachParallelContexts(*other, mixed, options);
  ASSERT_TRUE(third.ok()) << third.status().message();
  EXPECT_EQ(third->n_read, 50);
  EXPECT_EQ(third->n_reused, 300);
  EXPECT_EQ(other->cache_stats().n_stale_tokens, 300);
  EXPECT_EQ(other->cache().next_position(), (31 + 300) * kTicksPerPosition);
}

TEST(ParallelContexts, ContextsBecomeCodesAndTheirBytesAreCounted) {
  const auto model = Load(kModels + "llama_quantized.gguf");
  const auto prefix = Tokens(10, 1);
  std::vector<std::vector<int32_t>> texts;
  for (uint64_t i = 0; i < 20; ++i) texts.push_back(Tokens(190, 10 + i));
  auto session = Start(*model, prefix, "q4_0", 8192);
  const std::size_t before = session->cache_stats().used_bytes;
  const auto report = AttachParallelContexts(*session, Fresh(texts), {});
  ASSERT_TRUE(report.ok()) << report.status().message();
  const CacheStats stats = session->cache_stats();
  EXPECT_EQ(stats.used_bytes - before, report->bytes);
  // 190 tokens are two pages each and no row.
  EXPECT_EQ(session->cache().n_frozen_pages(), 40);
  EXPECT_EQ(session->cache().n_frozen_tokens(), 20 * 190);
  // 16-bit rows of the newest 128 to 255 of every context would have been all of it.
  EXPECT_LT(report->bytes, stats.f16_bytes / 2);
}

TEST(ParallelContexts, ErrorsLeaveTheSessionAsItWas) {
  const auto model = Load(kModels + "llama_gqa_tied");
  const auto prefix = Tokens(20, 1), text = Tokens(60, 2);
  auto session = Start(*model, prefix, "f32", 100);
  const std::vector<float> logits(session->logits().begin(), session->logits().end());
  const auto refused = [&](std::span<const ParallelContext> contexts, const ParallelOptions& o,
                           StatusCode code, const char* says) {
    const auto report = AttachParallelContexts(*session, contexts, o);
    ASSERT_FALSE(report.ok()) << says;
    EXPECT_EQ(report.status().code(), code) << report.status().message();
    EXPECT_NE(report.status().message().find(says), std::string::npos) << report.status().message();
    EXPECT_EQ(session->tokens(), prefix);
    EXPECT_FALSE(session->cache().has_groups());
    EXPECT_EQ(session->cache().next_position(), 20 * kTicksPerPosition);
    EXPECT_EQ(Worst(session->logits(), logits), 0);
  };
  using enum StatusCode;
  const std::vector<ParallelContext> one = {{.tokens = text}};
  for (float bad : {0.0f, -0.5f, 1.01f, NAN, INFINITY}) {
    refused(one, {.temperature = bad}, kInvalidArgument, "temperature");
    refused(one, {.scale = bad}, kInvalidArgument, "scale");
  }
  refused({}, {}, kInvalidArgument, "at least one, found none");
  refused(Fresh({text, {}}), {}, kInvalidArgument, "context 2");
  refused(Fresh({text, Tokens(21, 3)}), {}, kOutOfRange, "found 101");
  refused(Fresh({text, {1 << 20}}), {}, kInvalidArgument, "token ids");
  auto stranger = Start(*model, prefix);
  const TextSpan foreign = stranger->Slice(0, 20).value();
  refused(Again({foreign}), {}, kInvalidArgument, "store");
  TextSpan torn = session->Slice(0, 5).value();
  torn.tokens.pop_back();
  refused(Again({torn}), {}, kInvalidArgument, "4 cached tokens, found 5");
  std::atomic<bool> cancel{true};
  refused(one, {.cancel = &cancel}, kCancelled, "0 of 60");
  cancel = false;
  ParallelOptions stops_midway{.batch = 16, .cancel = &cancel};
  stops_midway.on_progress = [&](int64_t, int64_t) { cancel = true; };
  refused(one, stops_midway, kCancelled, "16 of 60");
  // Full to the last cell.
  EXPECT_TRUE(AttachParallelContexts(*session, Fresh({text, Tokens(20, 3)})).ok());
  EXPECT_EQ(AttachParallelContexts(*session, one).status().code(), kInvalidArgument);
  EXPECT_EQ(session->n_tokens(), 100);
}

TEST(ParallelContexts, ModelsAndSessionsThatForgetByThemselvesAreRefused) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / "phasor_parallel_contexts_sliding";
  fs::remove_all(folder);
  fs::copy(kModels + "mistral", folder, fs::copy_options::recursive);
  std::ifstream in(folder / "config.json");
  std::string json((std::istreambuf_iterator<char>(in)), {});
  const std::string from = "\"sliding_window\": null";
  const std::size_t at = json.find(from);
  ASSERT_NE(at, std::string::npos);
  json.replace(at, from.size(), "\"sliding_window\": 64");
  std::ofstream(folder / "config.json") << json;
  const auto model = Load(folder.string());
  fs::remove_all(folder);
  ASSERT_NE(model, nullptr);
  ASSERT_EQ(model->config().sliding_window, 64);
  auto session = Start(*model, Tokens(10, 1));
  const auto text = Tokens(30, 2);
  const Status status = AttachParallelContexts(*session, Fresh({text})).status();
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("sliding window of 64"), std::string::npos) << status.message();
  EXPECT_EQ(session->n_tokens(), 10);

  const auto other = Load(kModels + "llama_gqa_tied");
  SessionOptions options;
  options.n_ctx = 200;
  options.context_shift = true;
  auto shifting = Session::Create(*other, options).value();
  EXPECT_EQ(AttachParallelContexts(*shifting, Fresh({text})).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace phasor
