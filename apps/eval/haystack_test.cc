#include "eval/haystack.h"

#include <gtest/gtest.h>

#include <map>

#include "contracts/kv_codec.h"
#include "eval/retrieval_testing.h"

namespace phasor::eval {
namespace {

TEST(Haystack, FactsLieInPagesThatAreFrozenWhenTheyAreAskedFor) {
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const HaystackOptions options{
      .depths = {1500, 600}, .n_cases = 20, .n_asked = 7, .needle_spacing = 64, .n_recent = 160};
  for (const char* task : {"needle", "kv"}) {
    const auto haystacks = MakeHaystacks(**model, PretendedBook(), task, options);
    ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
    for (const Haystack& h : *haystacks) {
      for (const HaystackStop& stop : h.stops) {
        // Just behind a freeze, so that a question of less than a page freezes nothing.
        EXPECT_EQ((stop.n_tokens - options.n_sink - options.n_recent) % kPageTokens, 0);
        for (const RetrievalCase& c : stop.cases) {
          EXPECT_LE(c.end, stop.n_tokens - options.n_recent);
          EXPECT_LT(c.question.size() + c.answer.size(), static_cast<std::size_t>(kPageTokens));
          EXPECT_LE(stop.n_tokens + static_cast<int64_t>(c.question.size() + c.answer.size()),
                    stop.depth);
          const std::string before = (*model)->tokenizer().Decode(
              std::span(h.tokens).first(static_cast<std::size_t>(c.end)), true);
          const std::string fact = std::string(task) == "kv" ? c.key + ": " + c.value + "\n"
                                                             : c.key + " is " + c.value + ".";
          ASSERT_GE(before.size(), fact.size());
          EXPECT_EQ(before.substr(before.size() - fact.size()), fact);
        }
      }
    }
  }
}

TEST(Haystack, OneTextServesAllDepthsUntilEachHasItsCases) {
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  // Lists have more than nine keys in the first page already: three texts for the deepest, the last
  // with two questions.
  const HaystackOptions options{.depths = {1500, 600}, .n_cases = 20, .n_asked = 9};
  const auto haystacks = MakeHaystacks(**model, PretendedBook(), "kv", options);
  ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
  ASSERT_EQ(haystacks->size(), 3u);
  std::map<int64_t, std::size_t> cases;
  for (const Haystack& h : *haystacks) {
    ASSERT_EQ(h.stops.size(), 2u);
    EXPECT_EQ(h.stops[0].depth, 600);
    EXPECT_EQ(h.stops[1].n_tokens, static_cast<int64_t>(h.tokens.size()));
    for (const HaystackStop& stop : h.stops) {
      EXPECT_LE(stop.cases.size(), 9u);
      cases[stop.depth] += stop.cases.size();
    }
  }
  EXPECT_EQ(cases[600], 20u);
  EXPECT_EQ(cases[1500], 20u);
}

TEST(Haystack, NeedlesStandAtTheSpacingThatIsAskedFor) {
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const HaystackOptions options{
      .depths = {1500}, .n_cases = 4, .n_asked = 4, .needle_spacing = 300, .n_recent = 0};
  const auto haystacks = MakeHaystacks(**model, PretendedBook(), "needle", options);
  ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
  const auto& cases = (*haystacks)[0].stops[0].cases;
  ASSERT_EQ(cases.size(), 4u);
  for (std::size_t i = 1; i < cases.size(); ++i) {
    // Places are even; a needle may stand up to a spacing behind its own.
    EXPECT_GT(cases[i].end, cases[i - 1].end);
    EXPECT_LT(cases[i].end - cases[i - 1].end, 2 * options.needle_spacing);
  }
}

TEST(Haystack, QuestionsDifferFromTheKeyOnAndAnswersAreDigits) {
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const Tokenizer& tokenizer = (*model)->tokenizer();
  const HaystackOptions options{.depths = {1500}, .n_cases = 8, .n_asked = 8, .needle_spacing = 64};
  for (const std::string task : {"needle", "kv"}) {
    const auto haystacks = MakeHaystacks(**model, PretendedBook(), task, options);
    ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
    const auto& cases = (*haystacks)[0].stops[0].cases;
    ASSERT_EQ(cases.size(), 8u);
    std::string before_first_key;
    for (const RetrievalCase& c : cases) {
      std::vector<int32_t> all = c.question;
      all.insert(all.end(), c.answer.begin(), c.answer.end());
      const std::string end = c.key + (task == "kv" ? ": " : " is ") + c.value;
      const std::string text = tokenizer.Decode(all, true);
      ASSERT_TRUE(text.ends_with(end)) << text;
      const std::string before = text.substr(0, text.size() - end.size());
      if (before_first_key.empty()) before_first_key = before;
      EXPECT_EQ(before, before_first_key);
      EXPECT_EQ(tokenizer.Decode(c.answer, true).find_first_not_of(" 0123456789"),
                std::string::npos);
      EXPECT_NE(tokenizer.TokenBytes(c.answer[0], false).find_first_of("0123456789"),
                std::string::npos);
    }
  }
}

}  // namespace
}  // namespace phasor::eval
