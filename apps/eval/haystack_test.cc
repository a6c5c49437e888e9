#include "eval/retrieval.h"

#include <gtest/gtest.h>

#include "contracts/kv_codec.h"

namespace phasor::eval {
namespace {

std::string Book() {
  std::string text;
  for (int i = 0; i < 4000; ++i) {
    for (int shift = 0; shift < 15; shift += 3)
      text += static_cast<char>('a' + (i * 37 >> shift) % 8);
    text += i % 9 == 8 ? ". " : " ";
  }
  return text;
}

TEST(Retrieval, FactsLieInPagesThatAreFrozenWhenTheyAreAskedFor) {
  const auto model =
      LoadedModel::Load({.path = PHASOR_SOURCE_DIR "/tests/golden/models/llama_quantized.gguf",
                         .n_threads = 1,
                         .calibration_path = "",
                         .on_progress = {}});
  ASSERT_TRUE(model.ok()) << model.status().message();
  RetrievalOptions options;
  options.n_cases = 20;
  options.session.n_recent = 160;
  for (const char* task : {"needle", "kv"}) {
    const int64_t depth = 1500;
    const auto documents = MakeRetrievalDocuments(**model, Book(), task, depth, options);
    ASSERT_TRUE(documents.ok()) << documents.status().message();
    std::size_t n_cases = 0;
    for (const RetrievalDocument& d : *documents) {
      const auto size = static_cast<int64_t>(d.tokens.size());
      // Just behind a freeze, so that a question of less than a page freezes nothing.
      EXPECT_EQ((size - options.session.n_sink - options.session.n_recent) % kPageTokens, 0);
      n_cases += d.cases.size();
      for (const RetrievalCase& c : d.cases) {
        EXPECT_LE(c.end, size - options.session.n_recent);
        EXPECT_LT(c.question.size() + c.answer.size(), static_cast<std::size_t>(kPageTokens));
        EXPECT_LE(size + static_cast<int64_t>(c.question.size() + c.answer.size()), depth);
        const std::string before = (*model)->tokenizer().Decode(
            std::span(d.tokens).first(static_cast<std::size_t>(c.end)), true);
        const std::string fact = std::string(task) == "kv" ? c.key + ": " + c.value + "\n"
                                                           : c.key + " is " + c.value + ".";
        ASSERT_GE(before.size(), fact.size());
        EXPECT_EQ(before.substr(before.size() - fact.size()), fact);
      }
    }
    EXPECT_EQ(n_cases, 20u);
  }
}

}  // namespace
}  // namespace phasor::eval
