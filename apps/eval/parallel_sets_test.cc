#include "eval/parallel_sets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "engine/engine.h"

namespace phasor::eval {
namespace {

std::unique_ptr<LoadedModel> Model() {
  auto model =
      LoadedModel::Load({.path = PHASOR_SOURCE_DIR "/tests/golden/models/llama_quantized.gguf",
                         .n_threads = 1,
                         .calibration_path = "",
                         .on_progress = {}});
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(*model);
}

std::string Text(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  return tokenizer.Decode(tokens, true);
}

int Count(const std::string& text, const std::string& part) {
  int n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++n;
  return n;
}

TEST(ParallelSets, EveryFactAskedForStandsOnceAndInTheContextNamed) {
  const auto model = Model();
  const Tokenizer& tokenizer = model->tokenizer();
  const ParallelSetOptions options{.n_cases = 5, .n_contexts = 6, .n_items = 5, .n_questions = 7};
  const auto cases = MakeParallelCases(tokenizer, "lookup", options);
  ASSERT_TRUE(cases.ok()) << cases.status().message();
  ASSERT_EQ(cases->size(), 5u);
  for (const ParallelCase& c : *cases) {
    ASSERT_EQ(c.contexts.size(), 6u);
    ASSERT_EQ(c.questions.size(), 7u);
    std::string all;
    for (const auto& context : c.contexts) {
      all += Text(tokenizer, context);
      EXPECT_EQ(Count(Text(tokenizer, context), "The code of the "), 5);
    }
    for (const ParallelQuestion& q : c.questions) {
      const std::string begin = Text(tokenizer, q.query).substr(1);  // without the line feed
      const std::string fact = begin + Text(tokenizer, q.answer) + ".\n";
      EXPECT_EQ(Count(all, begin + " "), 1) << begin;
      EXPECT_EQ(Count(Text(tokenizer, c.contexts[static_cast<std::size_t>(q.context)]), fact), 1)
          << fact;
    }
  }
}

TEST(ParallelSets, OnlyTheShotsTellALabelAndTheWordAskedForIsNoneOfThem) {
  const auto model = Model();
  const Tokenizer& tokenizer = model->tokenizer();
  const ParallelSetOptions options{.n_cases = 6, .n_contexts = 8, .n_items = 12, .n_questions = 8};
  const auto cases = MakeParallelCases(tokenizer, "shots", options);
  ASSERT_TRUE(cases.ok()) << cases.status().message();
  std::map<std::string, std::set<std::string>> labels_of_word;
  for (const ParallelCase& c : *cases) {
    std::string all;
    for (const auto& context : c.contexts) {
      const std::string text = Text(tokenizer, context);
      EXPECT_EQ(Count(text, "\n"), 12);
      all += text;
    }
    std::set<std::string> answers;
    for (const ParallelQuestion& q : c.questions) {
      const std::string word = Text(tokenizer, q.query), label = Text(tokenizer, q.answer);
      EXPECT_EQ(Count("\n" + all, "\n" + word), 0) << word;
      // 96 shots, four labels in equal numbers.
      EXPECT_EQ(Count(all, ":" + label + "\n"), 24) << label;
      answers.insert(label);
      labels_of_word[word].insert(label);
    }
    EXPECT_EQ(answers.size(), 4u);
  }
  // Drawn anew in every case: some word has had two labels.
  EXPECT_TRUE(std::any_of(labels_of_word.begin(), labels_of_word.end(),
                          [](const auto& entry) { return entry.second.size() > 1; }));
}

TEST(ParallelSets, TheSeedDecidesAndBadOptionsAreRefused) {
  const auto model = Model();
  const Tokenizer& tokenizer = model->tokenizer();
  const auto first_context = [&](uint64_t seed) {
    ParallelSetOptions options;
    options.seed = seed;
    return MakeParallelCases(tokenizer, "lookup", options).value()[0].contexts[0];
  };
  EXPECT_EQ(first_context(1), first_context(1));
  EXPECT_NE(first_context(1), first_context(2));
  EXPECT_FALSE(MakeParallelCases(tokenizer, "magic", {}).ok());
  EXPECT_FALSE(MakeParallelCases(tokenizer, "lookup", {.n_contexts = 33}).ok());
  EXPECT_FALSE(MakeParallelCases(tokenizer, "lookup", {.n_items = 0}).ok());
}

}  // namespace
}  // namespace phasor::eval
