#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "phasor/phasor.h"

namespace phasor {
namespace {

const std::string kModels = std::string(PHASOR_SOURCE_DIR) + "/tests/golden/models/";

TEST(PublicApi, LoadsReadsAndAnswersWithTheDefaultCache) {
  auto model = Model::Load({.path = kModels + "llama_gqa_tied", .n_threads = 2});
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->info().architecture, "llama");
  const std::vector<int32_t> tokens = model->Tokenize("hello world, hello again");
  ASSERT_FALSE(tokens.empty());
  auto context = model->NewContext({.n_ctx = 64});
  ASSERT_TRUE(context.ok()) << context.status().message();
  ASSERT_TRUE(context->Append(tokens).ok());
  EXPECT_EQ(context->logits().size(), static_cast<std::size_t>(model->info().n_vocab));
  std::string streamed;
  auto answer = context->Generate({.temperature = 0, .max_tokens = 8},
                                  [&](std::string_view piece) { streamed += piece; });
  ASSERT_TRUE(answer.ok()) << answer.status().message();
  EXPECT_EQ(answer->text, streamed);
  EXPECT_LE(answer->tokens.size(), 8u);
  EXPECT_GT(context->cache_use().bytes, 0u);
  EXPECT_TRUE(context->Truncate(2).ok());
  EXPECT_EQ(context->tokens().size(), 2u);
}

TEST(PublicApi, TextThatWasReadCanBeEdited) {
  auto model = Model::Load({.path = kModels + "llama_gqa_tied", .n_threads = 2});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::vector<int32_t> before = model->Tokenize("one two three four five six seven eight");
  const std::vector<int32_t> after = model->Tokenize("one two 3 four five six 7 7 eight nine");
  auto context = model->NewContext({.n_ctx = 200});
  ASSERT_TRUE(context.ok()) << context.status().message();
  ASSERT_TRUE(context->Append(before).ok());
  auto fork = context->Fork();
  ASSERT_TRUE(fork.ok());
  auto report = context->Rewrite(after);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_TRUE(
      std::equal(after.begin(), after.end(), context->tokens().begin(), context->tokens().end()));
  EXPECT_GE(report->n_changes, 2);
  EXPECT_EQ(report->n_read + report->n_reused_exact + report->n_reused_stale,
            static_cast<int64_t>(after.size()));
  EXPECT_LT(report->n_read, static_cast<int64_t>(after.size()));
  EXPECT_EQ(context->cache_use().n_stale_tokens, report->n_reused_stale);
  EXPECT_TRUE(
      std::equal(before.begin(), before.end(), fork->tokens().begin(), fork->tokens().end()));
  // Back again, everything behind the first change read: as never edited.
  ASSERT_TRUE(context->Rewrite(before, {.recompute = 1}).ok());
  EXPECT_EQ(context->cache_use().n_stale_tokens, 0);
  ASSERT_TRUE(context->Generate({.temperature = 0, .max_tokens = 3}).ok());
  ASSERT_TRUE(fork->Pin(0, 2).ok());
  EXPECT_EQ(fork->Erase(0, 5).code(), StatusCode::kInvalidArgument);
  auto text = fork->Slice(2, 6);
  ASSERT_TRUE(text.ok());
  ASSERT_TRUE(fork->Erase(2, 6).ok());
  ASSERT_TRUE(fork->Attach(*text).ok());
  ASSERT_TRUE(fork->Move(3, 5, 2).ok());
  ASSERT_TRUE(fork->Copy(0, 2, 4).ok());
  EXPECT_EQ(fork->tokens().size(), before.size() + 2);
  EXPECT_EQ(fork->Move(0, 5, 300).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(fork->tokens().size(), before.size() + 2);
}

TEST(PublicApi, ASavedContextGoesOnInAModelLoadedAnew) {
  const std::string path = ::testing::TempDir() + "phasor_public_api_context.span";
  std::filesystem::remove(path);
  auto model = Model::Load({.path = kModels + "llama_gqa_tied", .n_threads = 2});
  ASSERT_TRUE(model.ok()) << model.status().message();
  auto context = model->NewContext({.n_ctx = 400});
  ASSERT_TRUE(context.ok());
  EXPECT_EQ(context->Save(path).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(model->LoadContext(path, {}).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(context->Append(std::vector<int32_t>(300, 7)).ok());
  ASSERT_TRUE(context->Save(path).ok());
  auto answer = context->Generate({.temperature = 0, .max_tokens = 12});
  ASSERT_TRUE(answer.ok());

  auto again = Model::Load({.path = kModels + "llama_gqa_tied", .n_threads = 2});
  ASSERT_TRUE(again.ok());
  auto loaded = again->LoadContext(path, {.n_ctx = 400});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->tokens().size(), 300u);
  EXPECT_EQ(loaded->cache_use().n_stale_tokens, 0);
  auto same = loaded->Generate({.temperature = 0, .max_tokens = 12});
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(same->tokens, answer->tokens);
  EXPECT_TRUE(std::equal(context->logits().begin(), context->logits().end(),
                         loaded->logits().begin(), loaded->logits().end()));
  EXPECT_EQ(again->LoadContext(path, {.n_ctx = 299}).status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(again->LoadContext(path, {.n_ctx = 400, .type_k = "q8_0"}).status().code(),
            StatusCode::kInvalidArgument);
  std::filesystem::remove(path);
}

TEST(PublicApi, ErrorsAreValues) {
  EXPECT_EQ(Model::Load({.path = "/nowhere/at/all.gguf"}).status().code(), StatusCode::kNotFound);
  auto model = Model::Load({.path = kModels + "llama_gqa_tied"});
  ASSERT_TRUE(model.ok());
  EXPECT_FALSE(model->NewContext({.type_k = "no_such_type"}).ok());
  auto context = model->NewContext({.n_ctx = 4});
  ASSERT_TRUE(context.ok());
  const std::vector<int32_t> many(5, 1), bad = {1 << 30};
  EXPECT_EQ(context->Append(many).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(context->Append(bad).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(context->tokens().size(), 0u);
  EXPECT_FALSE(context->Generate({}).ok());
}

}  // namespace
}  // namespace phasor
