#include "engine/two_streams.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "model/dense_reference.h"
#include "registry/position_plan_table.h"
#include "tests/support/tiny_model.h"

namespace phasor {
namespace {

using ::phasor::testing::kModels;
using ::phasor::testing::kRelativeTolerance;
using ::phasor::testing::Largest;
using ::phasor::testing::Load;
using ::phasor::testing::MaxAbsDifference;
using ::phasor::testing::NewSession;
using ::phasor::testing::RandomTokens;

// Reads both streams in an order of arrival and returns the logits of target tokens, [T, n_vocab].
std::vector<float> Stream(TwoStreams& streams, std::span<const int32_t> source,
                          std::span<const int32_t> target, const std::vector<StreamRole>& order) {
  std::vector<float> all;
  std::size_t next[2] = {};
  for (std::size_t i = 0; i < order.size();) {
    // What arrives in a row is read in one go.
    std::size_t n = 1;
    while (i + n < order.size() && order[i + n] == order[i]) ++n;
    const bool is_source = order[i] == StreamRole::kSource;
    std::size_t& at = next[is_source ? 0 : 1];
    AppendOptions options;
    if (!is_source) {
      options.on_logits = [&](int64_t, std::span<const float> logits) {
        all.insert(all.end(), logits.begin(), logits.end());
      };
    }
    const Status s =
        streams.Append(order[i], (is_source ? source : target).subspan(at, n), options);
    EXPECT_TRUE(s.ok()) << s.message();
    at += n;
    i += n;
  }
  return all;
}

// The same under a mask, source first: target token j sees the source that had arrived.
std::vector<float> StreamDense(const LoadedModel& model, std::span<const int32_t> source,
                               std::span<const int32_t> target,
                               const std::vector<StreamRole>& order, PositionTicks phi) {
  std::vector<int64_t> seen;  // by target token
  int64_t arrived = 0;
  for (StreamRole role : order) {
    if (role == StreamRole::kSource) {
      ++arrived;
    } else {
      seen.push_back(arrived);
    }
  }
  const auto S = static_cast<int64_t>(source.size());
  std::vector<int32_t> tokens(source.begin(), source.end());
  tokens.insert(tokens.end(), target.begin(), target.end());
  const std::vector<PlanSpan> spans = {
      {.n_tokens = S},
      {.n_tokens = static_cast<int64_t>(target.size()), .role = StreamRole::kTarget}};
  const auto positions = PlanPositions({.id = "gpe", .target_start = phi}, spans).value();
  const auto sees = [&](int64_t q, int64_t k) {
    if (k > q) return false;
    return q < S || k >= S || k < seen[q - S];
  };
  std::vector<float> all =
      DenseReferenceLogits(model.transformer(), {tokens, positions, sees}, model.pool());
  all.erase(all.begin(), all.begin() + S * model.config().n_vocab);
  return all;
}

TEST(TwoStreams, StreamingEqualsTheMaskedForwardForAnyOrderOfArrival) {
  Rng rng(5);
  for (const char* name : kModels) {
    const auto model = Load(name);
    const std::vector<int32_t> source = RandomTokens(*model, 40, rng),
                               target = RandomTokens(*model, 30, rng);
    for (int round = 0; round < 8; ++round) {
      std::vector<StreamRole> order;
      if (round < 4) {
        constexpr int64_t kWait[] = {1, 3, 7, 1000};
        order = WaitKOrder(40, 30, kWait[round]);
      } else {
        order.assign(40, StreamRole::kSource);
        order.insert(order.end(), 30, StreamRole::kTarget);
        for (std::size_t i = order.size() - 1; i > 0; --i) {
          std::swap(order[i], order[rng.Below(i + 1)]);
        }
      }
      const PositionTicks phi = (round % 3) * 137 * kTicksPerPosition / 2;
      const auto session = NewSession(*model);
      TwoStreams streams = TwoStreams::Create(session.get(), phi).value();
      const std::vector<float> got = Stream(streams, source, target, order);
      const std::vector<float> want = StreamDense(*model, source, target, order, phi);
      EXPECT_EQ(streams.n_source(), 40);
      EXPECT_EQ(streams.n_target(), 30);
      EXPECT_LT(MaxAbsDifference(got, want), kRelativeTolerance * Largest(want))
          << name << " round " << round;
    }
  }
}

TEST(TwoStreams, SourceLengthAsStartGivesTheBatchFormBitForBit) {
  Rng rng(6);
  const auto model = Load("llama_gqa_tied.gguf");
  const std::vector<int32_t> source = RandomTokens(*model, 40, rng),
                             target = RandomTokens(*model, 10, rng);
  const auto session = NewSession(*model), plain = NewSession(*model);
  TwoStreams streams = TwoStreams::Create(session.get(), 40 * kTicksPerPosition).value();
  ASSERT_TRUE(streams.Append(StreamRole::kSource, source).ok());
  ASSERT_TRUE(streams.Append(StreamRole::kTarget, target).ok());
  ASSERT_TRUE(plain->Append(source, {}).ok());
  ASSERT_TRUE(plain->Append(target, {}).ok());
  EXPECT_EQ(std::vector<float>(session->logits().begin(), session->logits().end()),
            std::vector<float>(plain->logits().begin(), plain->logits().end()));
  for (int64_t t = 0; t < 50; ++t) {
    EXPECT_EQ(session->cache().PositionOf(t), plain->cache().PositionOf(t));
  }
}

TEST(TwoStreams, TakingTurnsCostsAFewBlocksAndErrorsKeepBothStreams) {
  Rng rng(7);
  const auto model = Load("llama_gqa_tied.gguf");
  const std::vector<int32_t> source = RandomTokens(*model, 100, rng),
                             target = RandomTokens(*model, 100, rng);
  const auto session = NewSession(*model, 512, "q8_0");
  TwoStreams streams = TwoStreams::Create(session.get(), 0).value();
  Stream(streams, source, target, WaitKOrder(100, 100, 1));
  // Source, target, and the block that both shared at their first turn; sink and a page each.
  const KvStore& store = *session->store();
  EXPECT_LE(store.n_blocks_in_use(KvBlockKind::kRows) + store.n_blocks_in_use(KvBlockKind::kCodes),
            8);
  ASSERT_TRUE(session->Pin(100, 120).ok());
  const std::vector<int32_t> bad = {1 << 28};
  EXPECT_FALSE(streams.Append(StreamRole::kSource, bad).ok());
  EXPECT_EQ(streams.n_source(), 100);
  EXPECT_EQ(streams.n_target(), 100);
  EXPECT_TRUE(session->cache().AnyPinned(100, 120));
  EXPECT_EQ(streams.Append(StreamRole::kTarget, RandomTokens(*model, 400, rng)).code(),
            StatusCode::kOutOfRange);
  EXPECT_FALSE(TwoStreams::Create(NewSession(*model).get(), INT64_MAX).ok());
  const auto shifting = Session::Create(*model, {.n_ctx = 64, .context_shift = true}).value();
  EXPECT_EQ(TwoStreams::Create(shifting.get(), 0).status().code(), StatusCode::kInvalidArgument);
}

TEST(TwoStreams, WaitKReadsKSourceTokensBeforeTheFirstIsWritten) {
  using R = StreamRole;
  EXPECT_EQ(WaitKOrder(4, 3, 2), (std::vector<R>{R::kSource, R::kSource, R::kTarget, R::kSource,
                                                 R::kTarget, R::kSource, R::kTarget}));
  EXPECT_EQ(WaitKOrder(2, 2, 9), (std::vector<R>{R::kSource, R::kSource, R::kTarget, R::kTarget}));
  EXPECT_EQ(WaitKOrder(3, 1, 1), (std::vector<R>{R::kSource, R::kTarget, R::kSource, R::kSource}));
}

}  // namespace
}  // namespace phasor
