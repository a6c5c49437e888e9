#include "model/model_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "formats/hf_folder.h"
#include "tests/support/gguf_builder.h"

namespace phasor {
namespace {

using phasor::testing::AsBytes;
using phasor::testing::GgufBuilder;
using phasor::testing::WriteTestFile;

// Heads of 8: four pairs. Trained on 4096 tokens, extended to 131072.
GgufBuilder Gguf() {
  GgufBuilder b;
  b.Add("general.architecture", "llama").Add("llama.block_count", uint32_t{1});
  b.Add("llama.embedding_length", uint32_t{16}).Add("llama.attention.head_count", uint32_t{2});
  b.Add("llama.feed_forward_length", uint32_t{32}).Add("llama.context_length", uint32_t{131072});
  b.AddF32("token_embd.weight", {16, 4}, std::vector<float>(64, 0.5f));
  return b;
}

Result<RopeParams> Read(const GgufBuilder& builder) {
  const std::string image = builder.Build();
  auto file = GgufFile::Parse(AsBytes(image), "test");
  if (!file.ok()) return file.status();
  auto config = ReadModelConfig(*file);
  if (!config.ok()) return config.status();
  return config->rope;
}

const std::vector<float> kShort = {1.0f, 1.1f, 1.2f, 1.3f}, kLong = {1.0f, 4.0f, 16.0f, 32.0f};

GgufBuilder LongRope() {
  GgufBuilder b = Gguf();
  b.Add("llama.rope.scaling.original_context_length", uint32_t{4096});
  b.Add("llama.rope.scaling.attn_factor", 1.19f);
  b.AddF32("rope_factors_short.weight", {4}, kShort);
  b.AddF32("rope_factors_long.weight", {4}, kLong);
  return b;
}

TEST(ModelConfig, GgufFactorListsMeanLongRopeWithOrWithoutTheType) {
  for (const char* type : {"", "none", "longrope"}) {
    GgufBuilder b = LongRope();
    if (*type != 0) b.Add("llama.rope.scaling.type", type);
    const Result<RopeParams> rope = Read(b);
    ASSERT_TRUE(rope.ok()) << rope.status().message();
    EXPECT_EQ(rope->method, "longrope");
    EXPECT_EQ(rope->original_context, 4096);
    EXPECT_EQ(rope->short_factors, kShort);
    EXPECT_EQ(rope->long_factors, kLong);
    // All of the factor, not a multiple of YaRN's.
    EXPECT_EQ(rope->attention_factor, static_cast<double>(1.19f));
  }
}

TEST(ModelConfig, GgufWithOneFactorListOrAForeignTypeIsAnError) {
  const auto message = [](const GgufBuilder& b) { return Read(b).status().message(); };
  GgufBuilder one = Gguf();
  one.AddF32("rope_factors_long.weight", {4}, kLong);
  EXPECT_NE(message(one).find("rope_factors_short.weight: expected"), std::string::npos);
  GgufBuilder none = Gguf();
  none.Add("llama.rope.scaling.type", "longrope");
  EXPECT_NE(message(none).find("rope_factors_long.weight: expected"), std::string::npos);
  GgufBuilder yarn = LongRope();
  yarn.Add("llama.rope.scaling.type", "yarn");
  EXPECT_NE(message(yarn).find("found yarn"), std::string::npos);
  GgufBuilder magic = Gguf();
  magic.Add("llama.rope.scaling.type", "magic");
  EXPECT_NE(message(magic).find("none, linear, yarn or longrope, found magic"), std::string::npos);
  GgufBuilder size = Gguf();
  size.AddF32("rope_factors_long.weight", {3}, {1, 2, 3});
  EXPECT_NE(message(size).find("expected 4 F32 values, found 3"), std::string::npos);
}

TEST(ModelConfig, GgufNoneIsPlainRope) {
  GgufBuilder b = Gguf();
  b.Add("llama.rope.scaling.type", "none");
  EXPECT_EQ(Read(b)->method, "rope");
  EXPECT_EQ(Read(b)->attention_factor, 0);  // free for a session's own schedule
}

TEST(ModelConfig, GgufYarnMultipliesItsAttentionFactor) {
  GgufBuilder b = Gguf();
  b.Add("llama.rope.scaling.type", "yarn").Add("llama.rope.scaling.factor", 4.0f);
  b.Add("llama.rope.scaling.attn_factor", 0.5f);
  EXPECT_NEAR(Read(b)->attention_factor, 0.5 * (0.1 * std::log(4.0) + 1), 1e-12);
}

Result<RopeParams> ReadHf(const std::string& rope, const std::string& more = "") {
  std::string folder = ::testing::TempDir() + "phasor_config_XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return Unavailable("mkdtemp");
  const std::string header = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  const uint64_t length = header.size();
  std::string weights(reinterpret_cast<const char*>(&length), sizeof(length));
  weights += header + std::string(4, '\0');
  const std::string config =
      R"({"model_type":"llama","num_hidden_layers":1,"hidden_size":16,"num_attention_heads":2,)"
      R"("intermediate_size":32,"vocab_size":4,"max_position_embeddings":131072,)" +
      more + R"("rope_scaling":)" + rope + "}";
  const std::string files[] = {folder + "/config.json", folder + "/model.safetensors"};
  EXPECT_TRUE(WriteTestFile(files[0], config) && WriteTestFile(files[1], weights));
  Result<RopeParams> result = [&]() -> Result<RopeParams> {
    PHASOR_ASSIGN_OR_RETURN(HfFolder hf, HfFolder::Open(folder));
    PHASOR_ASSIGN_OR_RETURN(ModelConfig c, ReadModelConfig(hf));
    return c.rope;
  }();
  for (const std::string& file : files) ::unlink(file.c_str());
  ::rmdir(folder.c_str());
  return result;
}

TEST(ModelConfig, HfRopeTypesAreReadInBothSpellings) {
  const std::pair<const char*, const char*> types[] = {
      {"default", "rope"}, {"linear", "linear"},     {"dynamic", "dynamic_ntk"},
      {"yarn", "yarn"},    {"longrope", "longrope"}, {"llama3", "llama3"}};
  for (const auto& [type, method] : types) {
    for (const char* key : {"type", "rope_type"}) {
      const auto rope = ReadHf(std::string(R"({")") + key + R"(":")" + type + R"(","factor":2.0})");
      ASSERT_TRUE(rope.ok()) << rope.status().message();
      EXPECT_EQ(rope->method, method);
      EXPECT_EQ(rope->factor, 2.0);
      EXPECT_EQ(rope->original_context, 131072);
    }
  }
  EXPECT_NE(ReadHf(R"({"rope_type":"magic"})").status().message().find("found magic"),
            std::string::npos);
}

TEST(ModelConfig, HfLongRopeTakesItsFactorFromTheTwoContexts) {
  const char* lists = R"({"rope_type":"longrope","short_factor":[1,1.1,1.2,1.3],)"
                      R"("long_factor":[1,4,16,32],"factor":7})";
  for (const char* more : {R"("original_max_position_embeddings":4096,)", ""}) {
    std::string rope_json = lists;
    if (*more == 0) {
      rope_json.insert(1, R"("original_max_position_embeddings":4096,)");
    }
    const auto rope = ReadHf(rope_json, more);
    ASSERT_TRUE(rope.ok()) << rope.status().message();
    EXPECT_EQ(rope->original_context, 4096);
    EXPECT_EQ(rope->factor, 32);
    EXPECT_EQ(rope->short_factors, kShort);
    EXPECT_EQ(rope->long_factors, kLong);
  }
  EXPECT_NE(ReadHf(R"({"type":"longrope","long_factor":[1,"x"]})")
                .status()
                .message()
                .find("long_factor: expected a list of numbers"),
            std::string::npos);
}

}  // namespace
}  // namespace phasor
