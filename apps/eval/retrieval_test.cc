#include "eval/retrieval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "eval/retrieval_testing.h"
#include "ops/vector_ops.h"
#include "simd/cpu.h"

namespace phasor::eval {
namespace {

// Tokens come in other batches when a question's beginning is kept from the one before; that moves
// no sum of a kernel, so that nothing but the order of float sums over threads could differ. Where
// tile registers are used (ops/matmul.h) it would: few tokens take 8-bit activations, many
// bfloat16.
constexpr double kLogprobTolerance = 1e-6;

class WithoutTiles {
 public:
  WithoutTiles() { EXPECT_TRUE(EnableAmx(false).ok()); }
  ~WithoutTiles() { EXPECT_TRUE(EnableAmx(before_).ok()); }

 private:
  const bool before_ = AmxEnabled();
};

// The case alone: a fresh session that reads up to the stop in the same pieces.
RetrievalResult AskAlone(const LoadedModel& model, const SessionOptions& options,
                         const Haystack& haystack, std::size_t stop, std::size_t index) {
  Haystack alone = haystack;
  alone.stops.resize(stop + 1);
  for (std::size_t i = 0; i < stop; ++i) alone.stops[i].cases.clear();
  alone.stops[stop].cases = {haystack.stops[stop].cases[index]};
  auto session = Session::Create(model, options);
  EXPECT_TRUE(session.ok()) << session.status().message();
  std::vector<RetrievalResult> results;
  for (std::size_t i = 0; i <= stop; ++i) {
    const Status status = AskAtStop(**session, alone, i, {}, &results);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return results.at(0);
}

TEST(Retrieval, EveryQuestionGetsTheAnswerThatItGetsAlone) {
  const WithoutTiles without_tiles;
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const HaystackOptions making{.depths = {600, 1100}, .n_cases = 3, .n_asked = 3};
  for (const char* type_k : {"f16", "q4_0"}) {
    SessionOptions options;
    options.n_ctx = 1100;
    options.type_k = type_k;
    options.type_v = "f16";
    const auto haystacks = MakeHaystacks(**model, PretendedBook(), "kv", making);
    ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
    ASSERT_EQ(haystacks->size(), 1u);
    auto session = Session::Create(**model, options);
    ASSERT_TRUE(session.ok()) << session.status().message();
    int64_t n_read = 0;
    std::vector<RetrievalResult> results;
    for (std::size_t stop = 0; stop < 2; ++stop) {
      const Status status = AskAtStop(**session, haystacks->at(0), stop,
                                      {.on_tokens = [&](int64_t n) { n_read += n; }}, &results);
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_EQ((*session)->n_tokens(), haystacks->at(0).stops[stop].n_tokens);
    }
    ASSERT_EQ(results.size(), 6u);
    int64_t n_all = static_cast<int64_t>(haystacks->at(0).tokens.size());
    for (std::size_t stop = 0, i = 0; stop < 2; ++stop) {
      for (std::size_t c = 0; c < 3; ++c, ++i) {
        const RetrievalCase& asked = haystacks->at(0).stops[stop].cases[c];
        n_all += static_cast<int64_t>(asked.question.size() + asked.answer.size()) - 1;
        const RetrievalResult alone = AskAlone(**model, options, haystacks->at(0), stop, c);
        EXPECT_NEAR(results.at(i).logprob, alone.logprob, kLogprobTolerance) << type_k;
        EXPECT_EQ(results.at(i).n_right, alone.n_right);
        EXPECT_EQ(alone.n_tokens, static_cast<int>(asked.answer.size()));
        EXPECT_EQ(alone.distance, haystacks->at(0).stops[stop].n_tokens - asked.end);
        EXPECT_LT(alone.logprob, 0);
      }
    }
    EXPECT_LT(n_read, n_all);  // the words before the key are read once per stop
  }
}

TEST(Retrieval, KlIsThatOfTheLogitsKeptFromF16) {
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const HaystackOptions making{.depths = {600}, .n_cases = 2, .n_asked = 2};
  const auto haystacks = MakeHaystacks(**model, PretendedBook(), "kv", making);
  ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
  auto ask = [&](const char* type, const AskOptions& ask_options) {
    SessionOptions options;
    options.n_ctx = 600;
    options.type_k = type;
    options.type_v = "f16";
    auto session = Session::Create(**model, options);
    EXPECT_TRUE(session.ok()) << session.status().message();
    std::vector<RetrievalResult> results;
    const Status status = AskAtStop(**session, haystacks->at(0), 0, ask_options, &results);
    EXPECT_TRUE(status.ok()) << status.message();
    return results;
  };
  AnswerLogits f16, q4;
  EXPECT_EQ(ask("f16", {.keep = &f16}).at(0).kl, 0);
  const auto compared = ask("q4_0", {.keep = &q4, .base = &f16});
  ASSERT_EQ(f16.size(), q4.size());
  const auto vocab = static_cast<std::size_t>((*model)->config().n_vocab);
  std::size_t at = 0;
  for (const RetrievalResult& r : compared) {
    double kl = 0;
    for (int i = 0; i < r.n_tokens; ++i, at += vocab) {
      kl += KlDivergence(f16.data() + at, q4.data() + at, static_cast<int64_t>(vocab));
    }
    EXPECT_EQ(r.kl, kl);
    EXPECT_GT(r.kl, 0);
  }
  EXPECT_EQ(at, f16.size());
  for (const RetrievalResult& r : ask("f16", {.base = &f16})) EXPECT_EQ(r.kl, 0);
}

// n cases of each kind: right in both, by the type alone, by f16 alone, in neither.
struct Cases {
  std::vector<int> type, f16;
  Cases(int both, int type_alone, int f16_alone, int neither, int tokens = 1) {
    auto add = [&](int n, int t, int f) {
      type.insert(type.end(), n, t * tokens);
      f16.insert(f16.end(), n, f * tokens);
    };
    add(both, 1, 1);
    add(type_alone, 1, 0);
    add(f16_alone, 0, 1);
    add(neither, 0, 0);
  }
  Interval Bootstrap() const { return BootstrapRatio(type, f16, 1); }
};

TEST(Retrieval, AnAnswerCountsAsGreedyDecodingWouldWriteIt) {
  // The tokens of the likeliest continuation are all right; with another one in the second place
  // one is wrong, and what follows is judged behind the right one.
  const WithoutTiles without_tiles;
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const HaystackOptions making{.depths = {600}, .n_cases = 1, .n_asked = 1};
  auto haystacks = MakeHaystacks(**model, PretendedBook(), "kv", making);
  ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
  Haystack& haystack = haystacks->at(0);
  RetrievalCase& c = haystack.stops[0].cases[0];
  SessionOptions options;
  options.n_ctx = 600;
  options.type_k = options.type_v = "f32";
  auto session = Session::Create(**model, options);
  ASSERT_TRUE(session.ok()) << session.status().message();
  ASSERT_TRUE((*session)->Append(haystack.tokens, {}).ok());
  ASSERT_TRUE((*session)->Append(c.question, {}).ok());
  std::vector<int32_t> greedy;
  for (int i = 0; i < 3; ++i) {
    const auto logits = (*session)->logits();
    greedy.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    ASSERT_TRUE((*session)->Append({&greedy.back(), 1}, {}).ok());
  }
  auto ask = [&] {
    std::vector<RetrievalResult> results;
    const Status status = AskAtStop(**session, haystack, 0, {}, &results);
    EXPECT_TRUE(status.ok()) << status.message();
    return results.at(0);
  };
  c.answer = greedy;
  const RetrievalResult right = ask();
  EXPECT_EQ(right.n_tokens, 3);
  EXPECT_EQ(right.n_right, 3);
  EXPECT_TRUE(right.exact());
  c.answer[2] = greedy[2] == 5 ? 6 : 5;
  const RetrievalResult wrong = ask();
  EXPECT_EQ(wrong.n_right, 2);
  EXPECT_FALSE(wrong.exact());
  EXPECT_LT(wrong.logprob, right.logprob);
}

TEST(Retrieval, BootstrapOfARatioFollowsItsNormalApproximation) {
  // For equal shares the variance of the ratio is (type alone + f16 alone) / f16's right ones
  // squared, to first order.
  const double n_right = 900, n_alone = 50;
  const Interval interval = Cases(850, 50, 50, 250).Bootstrap();
  const double half = 1.96 * std::sqrt(2 * n_alone) / n_right;
  // Quantiles of 10,000 samples are good to about 2 %, the approximation to half / 2.
  EXPECT_NEAR(interval.low, 1 - half, 0.06 * half);
  EXPECT_NEAR(interval.high, 1 + half, 0.06 * half);
}

TEST(Retrieval, BootstrapOfARatioKnowsWhichSideIsWorse) {
  const Interval worse = Cases(80, 0, 20, 50).Bootstrap(), same = Cases(80, 0, 0, 50).Bootstrap();
  EXPECT_LT(worse.low, 0.8);
  EXPECT_GT(worse.high, 0.8);
  EXPECT_LT(worse.high, 1);
  EXPECT_EQ(same.low, 1);
  EXPECT_EQ(same.high, 1);
  const Interval better = Cases(80, 20, 0, 50).Bootstrap();
  EXPECT_GT(better.low, 1);
}

TEST(Retrieval, TokensOfOneAnswerAreNotDrawnApart) {
  // Answers that are right or wrong as a whole are worth no more for having three tokens.
  const Interval answers = Cases(80, 5, 10, 50).Bootstrap();
  const Interval tokens = Cases(80, 5, 10, 50, 3).Bootstrap();
  EXPECT_EQ(answers.low, tokens.low);
  EXPECT_EQ(answers.high, tokens.high);
}

}  // namespace
}  // namespace phasor::eval
