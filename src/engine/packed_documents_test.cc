#include "engine/packed_documents.h"

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
using ::phasor::testing::Probe;
using ::phasor::testing::RandomTokens;
using ::phasor::testing::Row;

class Packing {
 public:
  Packing(const LoadedModel& model, Rng& rng, int n_anchor, std::vector<int> lengths)
      : model_(model), anchor(RandomTokens(model, n_anchor, rng)) {
    for (int n : lengths) documents.push_back(RandomTokens(model, n, rng));
  }

  // Logits of every token under the plan's mask, probe tokens of the last document behind.
  std::vector<float> Dense(const std::string& plan_id, std::span<const int32_t> probe) const {
    const auto plan = MakePositionPlan({.id = plan_id}).value();
    std::vector<int32_t> tokens = anchor;
    std::vector<PositionTicks> positions;
    std::vector<PlanSpan> labels(anchor.size());
    PlanSpan span{.n_tokens = static_cast<int64_t>(anchor.size())};
    EXPECT_TRUE(plan->Extend(span, &positions).ok());
    for (const auto& document : documents) {
      ++span.document;
      span.n_tokens = static_cast<int64_t>(document.size());
      EXPECT_TRUE(plan->Extend(span, &positions).ok());
      tokens.insert(tokens.end(), document.begin(), document.end());
      labels.insert(labels.end(), document.size(), span);
    }
    // What is read behind the packed text sees all of it.
    const std::size_t n_packed = tokens.size();
    tokens.insert(tokens.end(), probe.begin(), probe.end());
    for (std::size_t i = 0; i < probe.size(); ++i) {
      positions.push_back(plan->next_position() + static_cast<int64_t>(i) * kTicksPerPosition);
    }
    const auto sees = [&](int64_t q, int64_t k) {
      if (k > q) return false;
      const auto n = static_cast<int64_t>(n_packed);
      return q >= n || (k < n && plan->Sees(labels[q], labels[k]));
    };
    return DenseReferenceLogits(model_.transformer(), {tokens, positions, sees}, model_.pool());
  }

 private:
  const LoadedModel& model_;

 public:
  std::vector<int32_t> anchor;
  std::vector<std::vector<int32_t>> documents;
};

TEST(PackedDocuments, ForksEqualADenseMaskedForwardForBothPlansAndAnyAnchor) {
  Rng rng(2);
  for (const char* name : kModels) {
    const auto model = Load(name);
    const int n_vocab = model->config().n_vocab;
    for (const char* plan : {"anchor", "document_reset"}) {
      for (int n_anchor : {0, 1, 3}) {
        for (int n_batch : {512, 5}) {  // all documents in one pass, and in pieces
          const Packing p(*model, rng, n_anchor, {13, 1, 40, 22});
          const std::vector<int32_t> probe = {5, 9};
          const std::vector<float> dense = p.Dense(plan, probe);
          const auto session = NewSession(*model, n_batch);
          std::vector<float> packed(dense.size(), NAN);
          PackOptions options{.plan = {.id = plan}, .anchor = p.anchor};
          std::vector<int64_t> first;
          int64_t at = n_anchor;
          for (const auto& document : p.documents) {
            first.push_back(at);
            at += static_cast<int64_t>(document.size());
          }
          options.on_logits = [&](int document, int64_t index, std::span<const float> logits) {
            std::copy(logits.begin(), logits.end(),
                      packed.begin() + (first[document] + index) * n_vocab);
          };
          const auto report = ReadPacked(p.documents, options, session.get());
          ASSERT_TRUE(report.ok()) << report.status().message();
          EXPECT_EQ(report->first_token, first);
          EXPECT_EQ(session->n_tokens(), at);
          EXPECT_EQ(session->cache_stats().n_stale_tokens, 0);
          const double bound = kRelativeTolerance * Largest(dense);
          for (int64_t t = n_anchor; t < at; ++t) {
            EXPECT_LT(MaxAbsDifference(Row(packed, t, n_vocab), Row(dense, t, n_vocab)), bound)
                << name << " " << plan << " anchor " << n_anchor << " token " << t;
          }
          // What is read behind them sees all of them at their places.
          for (std::size_t i = 0; i < probe.size(); ++i) {
            EXPECT_LT(MaxAbsDifference(Probe(*session, probe[i]),
                                       Row(dense, at + static_cast<int64_t>(i), n_vocab)),
                      bound)
                << name << " " << plan << " anchor " << n_anchor;
          }
        }
      }
    }
  }
}

TEST(PackedDocuments, OneDocumentEqualsReadingItPlainly) {
  Rng rng(3);
  const auto model = Load("llama_gqa_tied.gguf");
  for (const char* plan : {"anchor", "document_reset"}) {
    const Packing p(*model, rng, 1, {60});
    const auto packed = NewSession(*model), plain = NewSession(*model);
    const PackOptions options{.plan = {.id = plan}, .anchor = p.anchor};
    ASSERT_TRUE(ReadPacked(p.documents, options, packed.get()).ok());
    ASSERT_TRUE(plain->Append(p.anchor, {}).ok());
    ASSERT_TRUE(plain->Append(p.documents[0], {}).ok());
    EXPECT_EQ(packed->tokens(), plain->tokens());
    EXPECT_EQ(packed->cache().next_position(), plain->cache().next_position());
    const std::vector<float> a = Probe(*packed, 7), b = Probe(*plain, 7);
    EXPECT_LT(MaxAbsDifference(a, b), kRelativeTolerance * Largest(b));
  }
}

TEST(PackedDocuments, WhatCannotBePackedIsRefusedAndLeavesTheSessionEmpty) {
  Rng rng(4);
  const auto model = Load("llama_gqa_tied.gguf");
  const auto session = NewSession(*model);
  std::vector<std::vector<int32_t>> documents = {RandomTokens(*model, 9, rng), {}};
  PackOptions options;
  EXPECT_EQ(ReadPacked(documents, options, session.get()).status().code(),
            StatusCode::kInvalidArgument);
  documents[1] = RandomTokens(*model, 600, rng);  // past the context of 512
  EXPECT_EQ(ReadPacked(documents, options, session.get()).status().code(), StatusCode::kOutOfRange);
  documents[1] = {1 << 28};
  EXPECT_EQ(ReadPacked(documents, options, session.get()).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(session->n_tokens(), 0);
  documents.pop_back();
  options.plan.id = "sequential";
  EXPECT_EQ(ReadPacked(documents, options, session.get()).status().code(),
            StatusCode::kUnsupported);
  std::atomic<bool> cancel = true;
  options.plan.id = "anchor";
  options.cancel = &cancel;
  EXPECT_EQ(ReadPacked(documents, options, session.get()).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(session->n_tokens(), 0);
}

}  // namespace
}  // namespace phasor
