// Ids and texts equal Hugging Face's on a corpus of 10,240 lines (scripts/make_golden_tokens.py).
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer/json.h"
#include "formats/utf8.h"
#include "tests/support/default_model.h"

namespace phasor {
namespace {

constexpr std::size_t kLines = 10240, kLinesPerBlock = 16, kHashBytes = 3;
// A wrong tokenizer prints this many lines and stops.
constexpr int kMaxReports = 5;

std::string Golden(const std::string& name) {
  auto text = ReadFile(std::string(PHASOR_SOURCE_DIR) + "/tests/golden/tokenizer/" + name);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return text.ok() ? *text : std::string();
}

// FNV-1a, 32 bits folded to 24.
uint32_t Fold(std::string_view bytes) {
  uint32_t h = 0x811C9DC5;
  for (char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x01000193u;
  return (h >> 24) ^ (h & 0xFFFFFF);
}

uint32_t IdHash(const std::vector<int32_t>& ids) {
  std::string bytes;
  for (int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(id >> shift);
  }
  return Fold(bytes);
}

class HashReader {
 public:
  explicit HashReader(std::string bytes) : bytes_(std::move(bytes)) {}
  std::size_t size() const { return bytes_.size() / kHashBytes; }
  uint32_t Next() {
    uint32_t h = 0;
    for (std::size_t i = 0; i < kHashBytes; ++i) {
      h |= static_cast<uint32_t>(static_cast<unsigned char>(bytes_[at_++])) << (8 * i);
    }
    return h;
  }

 private:
  std::string bytes_;
  std::size_t at_ = 0;
};

std::vector<std::string> CorpusLines() {
  std::string text = Golden("corpus.bin");
  std::vector<std::string> lines;
  for (std::size_t at = 0; at <= text.size();) {
    std::size_t end = text.find('\n', at);
    if (end == text.npos) end = text.size();
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

std::string Show(const std::string& text, const std::vector<int32_t>& ids) {
  std::string out = ::testing::PrintToString(text) + " ->";
  for (int32_t id : ids) out += " " + std::to_string(id);
  return out;
}

void ExpectGolden(const Tokenizer& tokenizer, const std::string& name) {
  std::vector<std::string> lines = CorpusLines();
  HashReader golden(Golden(name + ".hash"));
  ASSERT_EQ(lines.size(), kLines);
  ASSERT_EQ(golden.size(), kLines + kLines / kLinesPerBlock * 3);
  EncodeOptions options;
  options.invalid_utf8 = InvalidUtf8::kReplace;
  int reports = 0;
  auto report = [&](const char* what, const std::string& text, const std::vector<int32_t>& ids) {
    if (++reports <= kMaxReports) ADD_FAILURE() << name << ": " << what << ": " << Show(text, ids);
  };
  for (const std::string& line : lines) {
    auto ids = tokenizer.Encode(line, options);
    if (IdHash(ids) != golden.Next()) report("line", line, ids);
  }
  for (std::size_t at = 0; at < kLines; at += kLinesPerBlock) {
    std::string block = lines[at];
    for (std::size_t i = at + 1; i < at + kLinesPerBlock; ++i) block += "\n" + lines[i];
    options.parse_special = true;
    auto ids = tokenizer.Encode(block, options);
    if (IdHash(ids) != golden.Next()) report("block", block, ids);
    options.parse_special = false;
    auto plain = tokenizer.Encode(block, options);
    if (IdHash(plain) != golden.Next()) report("block without special tokens", block, plain);
    std::string text = ReplaceInvalidUtf8(tokenizer.Decode(ids, true));
    if (Fold(text) != golden.Next()) report("decoded block", text, ids);
  }
  EXPECT_EQ(reports, 0);
}

void ExpectGoldenJson(const std::string& name) {
  auto tokenizer = Tokenizer::FromJson(Golden(name + ".json"), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  ExpectGolden(**tokenizer, name);
}

void ExpectGoldenGguf(const std::string& path, const std::string& name) {
  auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  auto tokenizer = Tokenizer::FromGguf(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  ExpectGolden(**tokenizer, name);
}

TEST(TokenizerGolden, Llama3StyleJsonEqualsHuggingFace) { ExpectGoldenJson("llama3"); }
TEST(TokenizerGolden, Qwen2StyleJsonEqualsHuggingFace) { ExpectGoldenJson("qwen2"); }
TEST(TokenizerGolden, UnigramJsonEqualsHuggingFace) { ExpectGoldenJson("unigram"); }
TEST(TokenizerGolden, Llama2StyleJsonEqualsHuggingFace) { ExpectGoldenJson("llama2"); }

TEST(TokenizerGolden, DefaultModelEqualsHuggingFace) {
  auto path = testing::DefaultModelPath();
  if (!path) GTEST_SKIP() << "the default model is not there; scripts/get_model.sh gets it";
  ExpectGoldenGguf(*path, "default");
}

TEST(TokenizerGolden, Gpt2VocabularyEqualsHuggingFace) {
  const char* path = std::getenv("PHASOR_TEST_GPT2_VOCAB");
  if (path == nullptr)
    GTEST_SKIP() << "PHASOR_TEST_GPT2_VOCAB names no GGUF with GPT-2's vocabulary";
  ExpectGoldenGguf(path, "gpt2");
}

TEST(TokenizerGolden, LlamaSentencePieceVocabularyEqualsHuggingFace) {
  const char* path = std::getenv("PHASOR_TEST_SPM_VOCAB");
  if (path == nullptr)
    GTEST_SKIP() << "PHASOR_TEST_SPM_VOCAB names no GGUF with Llama 2's vocabulary";
  ExpectGoldenGguf(path, "spm");
}

TEST(TokenizerGolden, SingleStepsEqualHuggingFace) {
  Json golden = Json::parse(Golden("steps.json"), nullptr, false);
  ASSERT_TRUE(golden.is_object());
  ASSERT_GT(golden["cases"].size(), 100u);
  for (const Json& c : golden["cases"]) {
    bool pre = c["part"] == "pre_tokenizer", byte_level = false;
    PreTokenizer pre_tokenizer;
    Normalizer normalizer;
    Status status = pre ? ReadJsonPreTokenizer(c["config"], &pre_tokenizer, &byte_level)
                        : ReadJsonNormalizer(c["config"], &normalizer);
    ASSERT_TRUE(status.ok()) << c["config"] << status.message();
    for (std::size_t i = 0; i < golden["texts"].size(); ++i) {
      std::string text = golden["texts"][i];
      PreTokenizerScratch scratch;
      Json found = Json::array();
      if (pre) {
        pre_tokenizer.Split(text, true, &scratch);
        for (const TextPiece& piece : scratch.pieces) found.push_back(std::string(piece.text));
      } else {
        std::string storage;
        found = std::string(normalizer.Apply(text, true, &scratch.regex, &storage));
      }
      EXPECT_EQ(found, c["out"][i]) << c["config"] << " on " << golden["texts"][i];
    }
  }
}

}  // namespace
}  // namespace phasor
