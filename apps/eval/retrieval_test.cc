#include "eval/retrieval.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eval/retrieval_testing.h"

namespace phasor::eval {
namespace {

// Tokens come in other batches when a question's beginning is kept from the one before; that moves
// no sum of a kernel, so that nothing but the order of float sums over threads could differ.
constexpr double kLogprobTolerance = 1e-6;

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
    const Status status = AskAtStop(**session, alone, i, nullptr, {}, &results);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return results.at(0);
}

TEST(Retrieval, EveryQuestionGetsTheAnswerThatItGetsAlone) {
  const auto model = GoldenModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const HaystackOptions making{.depths = {600, 1100}, .n_cases = 3, .n_asked = 3};
  for (const char* type_k : {"f16", "q4_0"}) {
    const SessionOptions options{.n_ctx = 1100, .type_k = type_k, .type_v = "f16"};
    const auto haystacks = MakeHaystacks(**model, PretendedBook(), "kv", making);
    ASSERT_TRUE(haystacks.ok()) << haystacks.status().message();
    ASSERT_EQ(haystacks->size(), 1u);
    auto session = Session::Create(**model, options);
    ASSERT_TRUE(session.ok()) << session.status().message();
    int64_t n_read = 0;
    std::vector<RetrievalResult> results;
    for (std::size_t stop = 0; stop < 2; ++stop) {
      const Status status = AskAtStop(
          **session, haystacks->at(0), stop, nullptr, [&](int64_t n) { n_read += n; }, &results);
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
        EXPECT_EQ(results.at(i).exact, alone.exact);
        EXPECT_LT(alone.logprob, 0);
      }
    }
    EXPECT_LT(n_read, n_all);  // the words before the key are read once per stop
  }
}

TEST(Retrieval, BootstrapOfARatioFollowsItsNormalApproximation) {
  // For equal shares the variance of the ratio is (type alone + f16 alone) / f16's right ones
  // squared, to first order.
  const double n_right = 900, n_alone = 50;
  const Interval interval = BootstrapRatio(850, 50, 50, 250, 1);
  const double half = 1.96 * std::sqrt(2 * n_alone) / n_right;
  // Quantiles of 10,000 samples are good to about 2 %, the approximation to half / 2.
  EXPECT_NEAR(interval.low, 1 - half, 0.06 * half);
  EXPECT_NEAR(interval.high, 1 + half, 0.06 * half);
}

TEST(Retrieval, BootstrapOfARatioKnowsWhichSideIsWorse) {
  const Interval worse = BootstrapRatio(80, 0, 20, 50, 1), same = BootstrapRatio(80, 0, 0, 50, 1);
  EXPECT_LT(worse.low, 0.8);
  EXPECT_GT(worse.high, 0.8);
  EXPECT_LT(worse.high, 1);
  EXPECT_EQ(same.low, 1);
  EXPECT_EQ(same.high, 1);
  const Interval better = BootstrapRatio(80, 20, 0, 50, 1);
  EXPECT_GT(better.low, 1);
}

}  // namespace
}  // namespace phasor::eval
