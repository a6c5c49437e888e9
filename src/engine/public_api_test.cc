#include <gtest/gtest.h>

#include <string>

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
