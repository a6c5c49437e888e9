// Damaged and hostile tokenizer files give one clear error, never a crash.
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "formats/gguf.h"
#include "formats/tokenizer.h"
#include "tests/support/tiny_tokenizer.h"

namespace phasor {
namespace {

using nlohmann::json;

struct HostileCase {
  const char* name;
  void (*damage)(json*);
  StatusCode code;
  const char* message;  // part of it
};

constexpr auto kCorrupt = StatusCode::kDataCorrupt, kNo = StatusCode::kUnsupported;
const HostileCase kCases[] = {
    {"no model", [](json* j) { j->erase("model"); }, kCorrupt, "expected a model"},
    {"model is text", [](json* j) { (*j)["model"] = "BPE"; }, kCorrupt, "expected a model"},
    {"unknown model", [](json* j) { (*j)["model"]["type"] = "WordPiece"; }, kNo, "WordPiece"},
    {"vocab is a list",
     [](json* j) {
       (*j)["model"]["vocab"] = {1, 2};
     },
     kCorrupt, "vocab"},
    {"empty vocab", [](json* j) { (*j)["model"]["vocab"] = json::object(); }, kCorrupt, "vocab"},
    {"negative id", [](json* j) { (*j)["model"]["vocab"]["a"] = -1; }, kCorrupt, "found -1"},
    {"huge id", [](json* j) { (*j)["model"]["vocab"]["a"] = 4000000000u; }, kCorrupt,
     "found 4000000000"},
    {"id is text", [](json* j) { (*j)["model"]["vocab"]["a"] = "7"; }, kCorrupt, "integer"},
    {"id is a fraction", [](json* j) { (*j)["model"]["vocab"]["a"] = 1.5; }, kCorrupt, "integer"},
    {"duplicate id", [](json* j) { (*j)["model"]["vocab"]["a"] = 98; }, kCorrupt, "id 98"},
    {"merge of unknown tokens", [](json* j) { (*j)["model"]["merges"].push_back("he y"); },
     kCorrupt, "hey"},
    {"merge of one token", [](json* j) { (*j)["model"]["merges"].push_back("hello"); }, kCorrupt,
     "two tokens"},
    {"merge of three", [](json* j) { (*j)["model"]["merges"].push_back("h e l"); }, kCorrupt,
     "two tokens"},
    {"merge is a number", [](json* j) { (*j)["model"]["merges"].push_back(5); }, kCorrupt,
     "two tokens"},
    {"merges are an object", [](json* j) { (*j)["model"]["merges"] = json::object(); }, kCorrupt,
     "merges"},
    {"dropout", [](json* j) { (*j)["model"]["dropout"] = 0.1; }, kNo, "dropout"},
    {"unk token missing", [](json* j) { (*j)["model"]["unk_token"] = "<unk>"; }, kCorrupt, "unk"},
    {"added id taken", [](json* j) { (*j)["added_tokens"][0]["id"] = 5; }, kCorrupt, "id 5"},
    {"added id negative", [](json* j) { (*j)["added_tokens"][0]["id"] = -2; }, kCorrupt, "-2"},
    {"added without id", [](json* j) { (*j)["added_tokens"][0].erase("id"); }, kCorrupt, "id"},
    {"added are text", [](json* j) { (*j)["added_tokens"] = "x"; }, kCorrupt, "added_tokens"},
    {"special is text", [](json* j) { (*j)["added_tokens"][0]["special"] = "yes"; }, kCorrupt,
     "special"},
    {"unknown normalizer",
     [](json* j) {
       (*j)["normalizer"] = {{"type", "Bert"}};
     },
     kNo, "Bert"},
    {"character map",
     [](json* j) {
       (*j)["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}};
     },
     kNo, "Precompiled"},
    {"broken pattern",
     [](json* j) {
       (*j)["pre_tokenizer"] = {
           {"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}};
     },
     kNo, "(a"},
    {"class intersection",
     [](json* j) {
       (*j)["pre_tokenizer"] = {
           {"type", "Split"}, {"pattern", {{"Regex", "[a&&b]"}}}, {"behavior", "Isolated"}};
     },
     kNo, "intersection"},
    {"unknown pre-tokenizer", [](json* j) { (*j)["pre_tokenizer"]["type"] = "Q"; }, kNo, "Q"},
    {"unknown decoder", [](json* j) { (*j)["decoder"]["type"] = "CTC"; }, kNo, "CTC"},
    {"unknown post-processor",
     [](json* j) {
       (*j)["post_processor"] = {{"type", "P"}};
     },
     kNo, "post_processor"},
};

TEST(HostileTokenizer, EachDamageHasItsError) {
  for (const HostileCase& c : kCases) {
    json j = testing::ByteTokenizerJson();
    c.damage(&j);
    auto t = Tokenizer::FromJson(j.dump(), "");
    ASSERT_FALSE(t.ok()) << c.name;
    EXPECT_EQ(t.status().code(), c.code) << c.name << ": " << t.status().message();
    EXPECT_NE(t.status().message().find(c.message), std::string::npos)
        << c.name << ": " << t.status().message();
  }
}

TEST(HostileTokenizer, EveryTruncationIsAnError) {
  std::string text = testing::ByteTokenizerJson().dump();
  for (std::size_t n = 0; n < text.size(); n += n < 200 ? 1 : 7) {
    EXPECT_FALSE(Tokenizer::FromJson(text.substr(0, n), "").ok()) << n;
  }
}

TEST(HostileTokenizer, DeepNestingIsAnError) {
  std::string deep = "{\"a\":" + std::string(1000000, '[');
  EXPECT_FALSE(Tokenizer::FromJson(deep, "").ok());
  deep += std::string(1000000, ']') + "}";
  auto t = Tokenizer::FromJson(deep, "");
  ASSERT_FALSE(t.ok());
  EXPECT_NE(t.status().message().find("deep"), std::string::npos) << t.status().message();
  std::string config = "{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}";
  EXPECT_FALSE(Tokenizer::FromJson(testing::ByteTokenizerJson().dump(), config).ok());
}

TEST(HostileTokenizer, FlippedBytesNeverCrash) {
  std::string text = testing::ByteTokenizerJson().dump();
  Rng rng(3);
  int n_ok = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = text;
    for (int flips = 0; flips < 3; ++flips) {
      damaged[rng.Below(damaged.size())] = static_cast<char>(rng.Below(256));
    }
    auto t = Tokenizer::FromJson(damaged, "");
    if (!t.ok()) continue;
    ++n_ok;
    auto ids = (*t)->Encode("hello <|im_end|> \xff wörld", {});
    for (int32_t id : ids) EXPECT_LT(id, (*t)->vocab_size());
    (*t)->Decode(ids, false);
  }
  EXPECT_LT(n_ok, 2000);
}

TEST(HostileTokenizer, PatternsThatExplodeGiveUp) {
  json j = testing::ByteTokenizerJson();
  j["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(a|a|aa)+$"}}}, {"behavior", "Isolated"}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  auto t = Tokenizer::FromJson(j.dump(), "");
  ASSERT_TRUE(t.ok()) << t.status().message();
  std::string text = std::string(5000, 'a') + "b";
  EXPECT_EQ((*t)->Decode((*t)->Encode(text, {}), false), text);
}

void ExpectGgufError(testing::GgufBuilder builder, StatusCode code, const std::string& message) {
  std::string image = builder.Build();
  auto file = GgufFile::Parse(testing::AsBytes(image), "test");
  ASSERT_TRUE(file.ok()) << file.status().message();
  auto t = Tokenizer::FromGguf(*file);
  ASSERT_FALSE(t.ok()) << message;
  EXPECT_EQ(t.status().code(), code) << t.status().message();
  EXPECT_NE(t.status().message().find(message), std::string::npos) << t.status().message();
}

TEST(HostileTokenizer, GgufMetadataIsChecked) {
  using Texts = std::vector<std::string>;
  auto bpe = [](const std::string& pre, const Texts& merges) {
    testing::GgufBuilder b;
    b.Add("tokenizer.ggml.model", "gpt2").Add("tokenizer.ggml.pre", pre);
    b.Add("tokenizer.ggml.tokens", Texts{"a", "b", "ab"}).Add("tokenizer.ggml.merges", merges);
    return b;
  };
  ExpectGgufError(bpe("klingon", {"a b"}), kNo, "llama-bpe, qwen2");
  ExpectGgufError(bpe("gpt-2", {"a c"}), kCorrupt, "merge 0");
  ExpectGgufError(bpe("gpt-2", {"ab"}), kCorrupt, "two tokens");
  ExpectGgufError(std::move(bpe("gpt-2", {"a b"}).Add("tokenizer.ggml.eos_token_id", uint32_t{3})),
                  kCorrupt, "found 3");
  ExpectGgufError(
      std::move(bpe("gpt-2", {"a b"}).Add("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1})),
      kCorrupt, "expected 3 entries");
  testing::GgufBuilder rwkv;
  rwkv.Add("tokenizer.ggml.model", "rwkv").Add("tokenizer.ggml.tokens", Texts{"a"});
  ExpectGgufError(std::move(rwkv), kNo, "rwkv");
  testing::GgufBuilder scoreless;
  scoreless.Add("tokenizer.ggml.model", "llama").Add("tokenizer.ggml.tokens", Texts{"a", "b"});
  scoreless.Add("tokenizer.ggml.scores", std::vector<float>{1.0f});
  ExpectGgufError(std::move(scoreless), kCorrupt, "expected 2 entries");
  testing::GgufBuilder nan;
  nan.Add("tokenizer.ggml.model", "llama").Add("tokenizer.ggml.tokens", Texts{"a"});
  nan.Add("tokenizer.ggml.scores", std::vector<float>{std::nanf("")});
  ExpectGgufError(std::move(nan), kCorrupt, "NaN");
}

}  // namespace
}  // namespace phasor
