#include "formats/tokenizer.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "base/rng.h"
#include "formats/gguf.h"
#include "formats/unicode.h"
#include "formats/utf8.h"
#include "tests/support/tiny_tokenizer.h"

namespace phasor {
namespace {

using Ids = std::vector<int32_t>;
using TokenizerPtr = std::unique_ptr<Tokenizer>;

TokenizerPtr FromJson(const nlohmann::json& json, const std::string& config = "") {
  auto t = Tokenizer::FromJson(json.dump(), config);
  EXPECT_TRUE(t.ok()) << t.status().message();
  return t.ok() ? std::move(t).value() : nullptr;
}

TokenizerPtr FromGguf(testing::GgufBuilder builder) {
  std::string image = builder.Build();
  auto file = GgufFile::Parse(testing::AsBytes(image), "test");
  EXPECT_TRUE(file.ok()) << file.status().message();
  auto t = Tokenizer::FromGguf(*file);
  EXPECT_TRUE(t.ok()) << t.status().message();
  return t.ok() ? std::move(t).value() : nullptr;
}

std::string RandomBytes(Rng* rng, std::size_t n) {
  std::string s(n, '\0');
  for (char& c : s) c = static_cast<char>(rng->Below(256));
  return s;
}

TEST(Tokenizer, MergesByRank) {
  auto t = FromJson(testing::ByteTokenizerJson());
  EXPECT_EQ(t->Encode("hello", {}), Ids{259});
  EXPECT_EQ(t->Encode("hell yes", {}), (Ids{258, ' ', 'y', 'e', 's'}));
  EXPECT_EQ(t->Encode("", {}), Ids{});
}

TEST(Tokenizer, SpecialTextIsATokenOnlyWhenAskedFor) {
  auto t = FromJson(testing::ByteTokenizerJson());
  EncodeOptions plain;
  plain.parse_special = false;
  EXPECT_EQ(t->Encode("a<|im_end|>b", {}), (Ids{'a', 260, 'b'}));
  Ids ids = t->Encode("a<|im_end|>b", plain);
  EXPECT_EQ(ids.size(), 12u);
  EXPECT_EQ(t->Decode(ids, true), "a<|im_end|>b");
  EXPECT_EQ(t->Decode(Ids{'a', 260, 'b'}, true), "ab");
  EXPECT_EQ(t->Decode(Ids{'a', 260, 'b'}, false), "a<|im_end|>b");
  EXPECT_TRUE(t->IsEndOfGeneration(260));
  EXPECT_FALSE(t->IsEndOfGeneration('a'));
  EXPECT_TRUE(t->IsSpecial(260));
}

TEST(Tokenizer, IdsOutOfRangeAddNothing) {
  auto t = FromJson(testing::ByteTokenizerJson());
  EXPECT_EQ(t->TokenBytes(-1, false), "");
  EXPECT_EQ(t->TokenBytes(t->vocab_size(), false), "");
  EXPECT_EQ(t->Decode(Ids{-5, 'x', 1 << 30}, false), "x");
  EXPECT_FALSE(t->IsSpecial(-1));
  EXPECT_FALSE(t->IsEndOfGeneration(1 << 30));
}

TEST(Tokenizer, AnyBytesComeBackFromAFullByteVocabulary) {
  auto t = FromJson(testing::ByteTokenizerJson());
  Rng rng(7);
  for (int i = 0; i < 2000; ++i) {
    std::string text = RandomBytes(&rng, rng.Below(60));
    EXPECT_EQ(t->Decode(t->Encode(text, {}), false), text) << ::testing::PrintToString(text);
  }
}

TEST(Tokenizer, DamagedBytesCutTheText) {
  auto t = FromJson(testing::ByteTokenizerJson());
  EXPECT_EQ(t->Encode("hello\xff\xfehello", {}), (Ids{259, 0xff, 0xfe, 259}));
  EncodeOptions replace;
  replace.invalid_utf8 = InvalidUtf8::kReplace;
  // E4 B8 starts a character that never ends: one U+FFFD, as in Python.
  EXPECT_EQ(t->Encode("hello\xe4\xb8", replace), (Ids{259, 0xef, 0xbf, 0xbd}));
  EXPECT_EQ(t->Encode("hello\xe4\xb8", {}), (Ids{259, 0xe4, 0xb8}));
}

TEST(Tokenizer, LongWordsMergeLikeShortOnes) {
  auto t = FromJson(testing::ByteTokenizerJson());
  std::string text;
  Ids expected;
  for (int i = 0; i < 5000; ++i) {  // one word, far beyond the plain scan
    text += i % 3 ? "hello" : "xhell";
    i % 3 ? expected.insert(expected.end(), {259}) : expected.insert(expected.end(), {'x', 258});
  }
  EXPECT_EQ(t->Encode(text, {}), expected);
}

TEST(Tokenizer, ThreadsShareOneTokenizer) {
  auto t = FromJson(testing::ByteTokenizerJson());
  std::string text = "hello hell he llo <|im_end|> \xff";
  Ids expected = t->Encode(text, {});
  std::array<int, 4> wrong{};
  std::vector<std::thread> threads;
  for (int& w : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) w += t->Encode(text, {}) != expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

TEST(TokenStream, NeverEmitsHalfACharacter) {
  auto t = FromJson(testing::ByteTokenizerJson());
  TokenStream stream(t.get());
  std::string family = "👨‍👩‍👧 é";
  std::string out;
  for (int32_t id : t->Encode(family, {})) {
    std::string text = stream.Put(id);
    EXPECT_TRUE(IsValidUtf8(text));
    out += text;
  }
  EXPECT_EQ(out + stream.Flush(), family);
  EXPECT_EQ(stream.Put(0xf0), "");
  EXPECT_EQ(stream.Put(0x9f), "");
  EXPECT_EQ(stream.Put('x'), "\xEF\xBF\xBDx");
  EXPECT_EQ(stream.Put(0xc3), "");
  EXPECT_EQ(stream.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(TokenStream, RandomBytesStreamAsTheirReplacedText) {
  auto t = FromJson(testing::ByteTokenizerJson());
  Rng rng(11);
  for (int i = 0; i < 500; ++i) {
    // Mostly bytes of multi-byte characters, so that many are nearly right.
    std::string bytes;
    for (uint64_t n = rng.Below(40); n > 0; --n) {
      bytes += static_cast<char>(rng.Below(4) ? 0x80 + rng.Below(128) : rng.Below(128));
    }
    TokenStream stream(t.get());
    std::string out;
    for (char c : bytes) {
      std::string text = stream.Put(static_cast<unsigned char>(c));
      ASSERT_TRUE(IsValidUtf8(text));
      out += text;
    }
    EXPECT_EQ(out + stream.Flush(), ReplaceInvalidUtf8(bytes));
  }
}

TEST(SpmTokenizer, MergesByScoreWithSpacePrefixAndBytes) {
  auto t = FromGguf(testing::SpmGguf());
  constexpr int32_t kByte0 = 3, kMark = 259, kA = 260, kAb = 262, kMarkAb = 263, kTwoMarks = 264;
  EXPECT_EQ(t->kind(), "spm");
  EXPECT_EQ(t->Encode("ab", {}), (Ids{1, kMarkAb}));  // BOS is the kind's default
  EXPECT_EQ(t->Encode("ab a", {}), (Ids{1, kMarkAb, kMark, kA}));
  EXPECT_EQ(t->Encode(" ab", {}), (Ids{1, kMark, kMarkAb}));
  EXPECT_EQ(t->Encode("   ", {}), (Ids{1, kTwoMarks, kTwoMarks}));
  EncodeOptions bare;
  bare.add_special = false;
  EXPECT_EQ(t->Encode("é", bare), (Ids{kMark, kByte0 + 0xc3, kByte0 + 0xa9}));
  EXPECT_EQ(t->Encode("\xff"
                      "ab",
                      bare),
            (Ids{kByte0 + 0xff, kAb}));
  EXPECT_EQ(t->Encode("</s>ab", bare), (Ids{2, kMarkAb}));
  bare.parse_special = false;
  EXPECT_EQ(t->Decode(t->Encode("</s>ab", bare), true), "</s>ab");
  EXPECT_EQ(t->Decode(t->Encode(" ab  é", {}), true), " ab  é");
  EXPECT_TRUE(t->add_bos());
  EXPECT_FALSE(t->add_eos());
  EXPECT_TRUE(t->IsEndOfGeneration(2));
}

TEST(SpmTokenizer, SpacePrefixCanBeTurnedOff) {
  auto builder = testing::SpmGguf();
  builder.Add("tokenizer.ggml.add_space_prefix", false).Add("tokenizer.ggml.add_bos_token", false);
  auto t = FromGguf(std::move(builder));
  EXPECT_EQ(t->Encode("ab", {}), Ids{262});
  EXPECT_EQ(t->Decode(t->Encode(" ab", {}), true), " ab");
}

TEST(UnigramTokenizer, ReadsGgufMetadata) {
  auto tokens = std::vector<std::string>{"<unk>", "</s>", "▁", "a", "b", "▁ab", "ba"};
  testing::GgufBuilder builder;
  builder.Add("tokenizer.ggml.model", "t5").Add("tokenizer.ggml.tokens", tokens);
  builder.Add("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 1, 1, 1, 1, 1});
  builder.Add("tokenizer.ggml.scores", std::vector<float>{0, 0, -2, -3, -3, -4, -4});
  builder.Add("tokenizer.ggml.eos_token_id", uint32_t{1});
  builder.Add("tokenizer.ggml.unknown_token_id", uint32_t{0});
  auto t = FromGguf(std::move(builder));
  EXPECT_EQ(t->Encode("  ab   aba ", {}), (Ids{5, 5, 3, 1}));
  EXPECT_EQ(t->Encode("ba", {}), (Ids{2, 6, 1}));
  EXPECT_EQ(t->Encode("aéé", {}), (Ids{2, 3, 0, 1}));  // unknown neighbours are one token
}

TEST(BpeTokenizer, Qwen2ComposesCharactersFirst) {
  nlohmann::json json = testing::ByteTokenizerJson();
  json["normalizer"] = {{"type", "NFC"}};
  auto t = FromJson(json);
  EXPECT_EQ(t->Encode("e\u0301", {}), t->Encode("é", {}));
  EXPECT_EQ(t->Encode("e\u0301", {}).size(), 2u);
}

TEST(Normalization, ManyMarksStayCheap) {
  // Alternating classes over 200,000 marks: a quadratic sort would take minutes.
  std::string text = "a";
  for (int i = 0; i < 100000; ++i) text += "\u0301\u0323";
  std::string composed = Normalize(text, NormalForm::kNfc);
  EXPECT_TRUE(composed.starts_with("\u1ea1\u0323"));  // a with dot below, then the other dots
  EXPECT_TRUE(IsValidUtf8(composed));
  EXPECT_EQ(Normalize(Normalize(text, NormalForm::kNfd), NormalForm::kNfc), composed);
}

TEST(JsonTokenizer, ConfigNamesTokensAndTemplate) {
  auto t = FromJson(testing::ByteTokenizerJson(), R"({"eos_token": {"content": "<|im_end|>"},
      "bos_token": null, "chat_template": [{"name": "tools", "template": "no"},
      {"name": "default", "template": "{{ messages }}"}]})");
  EXPECT_EQ(t->eos_id(), 260);
  EXPECT_EQ(t->bos_id(), -1);
  EXPECT_FALSE(t->add_bos());
  EXPECT_EQ(t->chat_template(), "{{ messages }}");
}

TEST(JsonTokenizer, TemplateAddsTokensOnBothSides) {
  nlohmann::json json = testing::ByteTokenizerJson();
  json["post_processor"] = nlohmann::json::parse(R"({"type": "TemplateProcessing", "single": [
      {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}], "pair": [],
      "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [260], "tokens": []}}})");
  auto t = FromJson(json);
  EncodeOptions bare;
  bare.add_special = false;
  EXPECT_EQ(t->Encode("x", {}), (Ids{260, 'x', 260}));
  EXPECT_EQ(t->Encode("x", bare), Ids{'x'});
  EXPECT_TRUE(t->add_bos());
}

}  // namespace
}  // namespace phasor
