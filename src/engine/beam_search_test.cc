#include "engine/beam_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "engine/rank_candidates.h"
#include "tests/support/tiny_model.h"

namespace phasor {
namespace {

using ::phasor::testing::kLikelihoodTolerance;
using ::phasor::testing::kModels;
using ::phasor::testing::kRelativeTolerance;
using ::phasor::testing::Largest;
using ::phasor::testing::Load;
using ::phasor::testing::LogSumExp;
using ::phasor::testing::MaxAbsDifference;
using ::phasor::testing::NewSession;
using ::phasor::testing::RandomTokens;

std::vector<int32_t> Greedy(const Session& session, int n, bool ignore_eos) {
  const auto fork = session.Fork().value();
  GenerateOptions options;
  options.max_tokens = n;
  options.sampler.temperature = 0;
  options.ignore_eos = ignore_eos;
  auto result = fork->Generate(options, {});
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result->tokens;
}

// log p(tokens | session's text), token by token.
double Likelihood(const Session& session, std::span<const int32_t> tokens) {
  const std::vector<std::vector<int32_t>> one = {{tokens.begin(), tokens.end()}};
  const auto fork = session.Fork().value();
  return RankCandidates({}, one, {}, fork.get()).value().scores[0].log_likelihood;
}

TEST(BeamSearch, WidthOneEqualsGreedy) {
  Rng rng(11);
  for (const char* name : kModels) {
    const auto model = Load(name);
    for (bool ignore_eos : {false, true}) {
      const auto session = NewSession(*model);
      ASSERT_TRUE(session->Append(RandomTokens(*model, 20, rng), {}).ok());
      const auto result =
          BeamSearch({.n_beams = 1, .max_tokens = 40, .ignore_eos = ignore_eos}, session.get());
      ASSERT_TRUE(result.ok()) << result.status().message();
      ASSERT_EQ(result->hypotheses.size(), 1u);
      EXPECT_EQ(result->hypotheses[0].tokens, Greedy(*session, 40, ignore_eos)) << name;
      EXPECT_EQ(result->n_branches, 0);
      EXPECT_EQ(session->n_tokens(), 20);
    }
  }
}

TEST(BeamSearch, KeepsTheLikeliestLinesAndTellsTheirLikelihood) {
  Rng rng(12);
  const auto model = Load("llama_gqa_tied.gguf");
  const int n_vocab = model->config().n_vocab;
  const auto session = NewSession(*model);
  ASSERT_TRUE(session->Append(RandomTokens(*model, 20, rng), {}).ok());
  const BeamOptions options{.n_beams = 5, .max_tokens = 6, .length_penalty = 0, .ignore_eos = true};
  const auto result = BeamSearch(options, session.get());
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_EQ(result->hypotheses.size(), 5u);
  for (const BeamHypothesis& h : result->hypotheses) {
    EXPECT_NEAR(h.log_probability, Likelihood(*session, h.tokens), kLikelihoodTolerance);
    EXPECT_LE(h.score, result->hypotheses[0].score);
    EXPECT_EQ(h.reason, FinishReason::kLength);
  }
  // By hand: all continuations of the lines that are kept, step by step.
  std::vector<std::pair<double, std::vector<int32_t>>> lines = {{0.0, {}}};
  for (int step = 0; step < 6; ++step) {
    std::vector<std::pair<double, std::vector<int32_t>>> longer;
    for (const auto& [log_p, line] : lines) {
      const auto fork = session->Fork().value();
      if (!line.empty()) {
        ASSERT_TRUE(fork->Append(line, {}).ok());
      }
      const std::span<const float> logits = fork->logits();
      const double lse = LogSumExp(logits);
      for (int id = 0; id < n_vocab; ++id) {
        longer.emplace_back(log_p + logits[id] - lse, line);
        longer.back().second.push_back(id);
      }
    }
    std::sort(longer.begin(), longer.end(),
              [](const auto& a, const auto& b) { return a.first > b.first; });
    longer.resize(5);
    lines = std::move(longer);
  }
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(result->hypotheses[i].tokens, lines[i].second) << i;
  }
}

TEST(BeamSearch, MemoryGrowsByTheBranchesOnly) {
  Rng rng(13);
  const auto model = Load("llama_gqa_tied.gguf");
  const auto session = NewSession(*model);
  ASSERT_TRUE(session->Append(RandomTokens(*model, 300, rng), {}).ok());
  const KvStore& store = *session->store();
  const auto blocks = [&] {
    return store.n_blocks_in_use(KvBlockKind::kRows) + store.n_blocks_in_use(KvBlockKind::kCodes);
  };
  const int before = blocks();
  const std::size_t allocated = store.AllocatedBytes();
  const int n_beams = 6;
  const auto result =
      BeamSearch({.n_beams = n_beams, .max_tokens = 60, .ignore_eos = true}, session.get());
  ASSERT_TRUE(result.ok()) << result.status().message();
  // All branches were given back. While they lived, a line held at most six pieces behind the
  // text, and one more while it was joined: however often it branched.
  EXPECT_EQ(blocks(), before);
  EXPECT_GT(result->n_branches, 6 * n_beams);
  const double grown = static_cast<double>(store.AllocatedBytes() - allocated);
  const auto block_bytes = static_cast<double>(store.BlockBytes(KvBlockKind::kRows));
  EXPECT_LE(grown / block_bytes, 7 * n_beams + 1);
}

TEST(BeamSearch, EndsAtTheContextAndRefusesBadOptions) {
  Rng rng(14);
  const auto model = Load("llama_gqa_tied.gguf");
  SessionOptions small;
  small.n_ctx = 24;
  small.type_k = small.type_v = "f32";
  const auto session = Session::Create(*model, small).value();
  EXPECT_FALSE(BeamSearch({}, session.get()).ok());
  ASSERT_TRUE(session->Append(RandomTokens(*model, 20, rng), {}).ok());
  const auto result =
      BeamSearch({.n_beams = 3, .max_tokens = 40, .ignore_eos = true}, session.get());
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->hypotheses[0].reason, FinishReason::kContextFull);
  EXPECT_EQ(result->hypotheses[0].tokens.size(), 5u);
  EXPECT_EQ(Greedy(*session, 40, true).size(), 5u);
  EXPECT_FALSE(BeamSearch({.n_beams = 0}, session.get()).ok());
  EXPECT_FALSE(BeamSearch({.max_tokens = 0}, session.get()).ok());
  std::atomic<bool> cancel = true;
  const auto stopped = BeamSearch({.cancel = &cancel}, session.get());
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->hypotheses.at(0).reason, FinishReason::kCancelled);
}

TEST(Tree, BranchesOfBranchesEqualSeparateTexts) {
  Rng rng(15);
  const auto model = Load("qwen2.gguf");
  const auto root = NewSession(*model);
  ASSERT_TRUE(root->Append(RandomTokens(*model, 50, rng), {}).ok());
  struct Node {
    std::unique_ptr<Session> session;
    std::vector<int32_t> text;
  };
  std::vector<Node> nodes;
  nodes.push_back({root->Fork().value(), root->tokens()});
  for (int level = 0; level < 4; ++level) {
    std::vector<Node> next;
    for (Node& node : nodes) {
      for (int child = 0; child < 2; ++child) {
        const std::vector<int32_t> more = RandomTokens(*model, 1 + level * 2, rng);
        Node grown{node.session->Fork().value(), node.text};
        grown.text.insert(grown.text.end(), more.begin(), more.end());
        next.push_back(std::move(grown));
      }
    }
    std::vector<BatchAppend> items;
    for (std::size_t i = 0; i < next.size(); ++i) {
      const auto n_new = static_cast<std::size_t>(1 + level * 2);
      items.push_back({next[i].session.get(), std::span(next[i].text).last(n_new)});
    }
    ASSERT_TRUE(AppendBatch(items).ok());
    nodes = std::move(next);
  }
  ASSERT_EQ(nodes.size(), 16u);
  for (const Node& node : nodes) {
    const auto alone = NewSession(*model);
    ASSERT_TRUE(alone->Append(node.text, {}).ok());
    EXPECT_EQ(node.session->tokens(), node.text);
    EXPECT_LT(MaxAbsDifference(node.session->logits(), alone->logits()),
              kRelativeTolerance * Largest(alone->logits()));
  }
}

}  // namespace
}  // namespace phasor
