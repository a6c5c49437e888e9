#include "position/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"
#include "ops/vector_ops.h"
#include "position/position.h"
#include "registry/position_plan_table.h"

namespace phasor {
namespace {

constexpr PositionTicks kOne = kTicksPerPosition;

PlanSpan Text(int64_t n, int document = 0) { return {.n_tokens = n, .document = document}; }
PlanSpan Image(int64_t n, int64_t number, int rows = 1, int columns = 1) {
  return {.n_tokens = n,
          .kind = SpanKind::kImage,
          .image = number,
          .n_rows = rows,
          .n_columns = columns};
}
PlanSpan Stream(StreamRole role, int64_t n) { return {.n_tokens = n, .role = role}; }

std::vector<double> Ids(const PositionPlanOptions& options, const std::vector<PlanSpan>& spans) {
  const auto positions = PlanPositions(options, spans);
  EXPECT_TRUE(positions.ok()) << positions.status().message();
  std::vector<double> ids;
  for (PositionTicks p : positions.value()) ids.push_back(static_cast<double>(p) / kOne);
  return ids;
}

TEST(PositionPlan, GoldenPositions) {
  using V = std::vector<double>;
  EXPECT_EQ(Ids({.id = "sequential"}, {Text(3), Image(2, 1), Text(1)}), (V{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(Ids({.id = "document_reset"}, {Text(1), Text(3, 1), Text(2, 2), Text(1, 1)}),
            (V{0, 1, 2, 3, 1, 2, 4}));
  EXPECT_EQ(Ids({.id = "document_reset"}, {Text(2, 1), Text(3, 2)}), (V{0, 1, 0, 1, 2}));
  EXPECT_EQ(Ids({.id = "anchor"}, {Text(1), Text(3, 1), Text(2, 2)}), (V{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(Ids({.id = "gpe", .target_start = 100 * kOne},
                {Stream(StreamRole::kSource, 2), Stream(StreamRole::kTarget, 1),
                 Stream(StreamRole::kSource, 1), Stream(StreamRole::kTarget, 2)}),
            (V{0, 1, 100, 2, 101, 102}));
  // Two texts around an image of five tokens a quarter apart: ceil(1 + 5/4) = 3, then 4.
  EXPECT_EQ(Ids({.id = "v2pe", .stride = 64}, {Text(2), Image(5, 1), Text(2)}),
            (V{0, 1, 1.25, 1.5, 1.75, 2, 2.25, 4, 5}));
  // Another image goes on from the rounded position.
  EXPECT_EQ(Ids({.id = "v2pe", .stride = 128}, {Text(1), Image(1, 1), Image(2, 2), Text(1)}),
            (V{0, 0.5, 1.5, 2, 3}));
  const std::vector<PlanSpan> grid = {Text(2), Image(12, 1, 2, 3), Text(1)};  // two experts
  EXPECT_EQ(Ids({.id = "shared_ids", .sharing = PositionSharing::kRow}, grid),
            (V{0, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6}));
  EXPECT_EQ(Ids({.id = "shared_ids", .sharing = PositionSharing::kExpert}, grid),
            (V{0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4}));
}

TEST(PositionPlan, MouSiTakesFourThousandAndNinetySixOrSixtyFourOrOnePosition) {
  for (const auto& [sharing, n] : {std::pair{PositionSharing::kToken, 4096},
                                   {PositionSharing::kRow, 64},
                                   {PositionSharing::kExpert, 1}}) {
    auto plan = MakePositionPlan({.id = "shared_ids", .sharing = sharing}).value();
    std::vector<PositionTicks> positions;
    ASSERT_TRUE(plan->Extend(Image(4096, 1, 64, 64), &positions).ok());
    EXPECT_EQ(plan->next_position(), n * kOne);
  }
}

TEST(PositionPlan, V2peTakesTextPlusImagesRoundedUp) {
  Rng rng(1);
  for (int stride = 1; stride <= 256; stride *= 2) {
    std::vector<PlanSpan> spans = {Text(1)};
    int64_t expected = 1;
    for (int i = 0; i < 30; ++i) {
      const auto n = static_cast<int64_t>(1 + rng.Below(600));
      const bool image = rng.Below(2) == 0;
      spans.push_back(image ? Image(n, i) : Text(n));
      expected += image ? (n * stride + 255) / 256 : n;
    }
    auto plan = MakePositionPlan({.id = "v2pe", .stride = stride}).value();
    std::vector<PositionTicks> positions;
    for (const PlanSpan& span : spans) ASSERT_TRUE(plan->Extend(span, &positions).ok());
    EXPECT_EQ(plan->next_position(), expected * kOne) << stride;
    EXPECT_TRUE(std::is_sorted(positions.begin(), positions.end()));
  }
}

TEST(PositionPlan, V2peStepsOfA256thAreExactAtAMillion) {
  auto plan = MakePositionPlan({.id = "v2pe", .stride = 1}).value();
  std::vector<PositionTicks> positions;
  ASSERT_TRUE(plan->Extend(Text(1000001), &positions).ok());
  ASSERT_TRUE(plan->Extend(Image(512, 1), &positions).ok());
  RopeParams params;
  params.n_rot = 128;
  params.theta_base = 10000;
  const auto table = kRopeMethod.make(params).value();
  for (int64_t i = 0; i < 512; ++i) {
    const PositionTicks at = positions[1000001 + i];
    ASSERT_EQ(at * 256, (1000000 * 256 + i + 1) * kOne);
    // The fastest pair turns by the step of one radian per position, which a float position of
    // 1,000,000 (spacing 1/16) could not tell from none.
    const uint64_t turned =
        TurnsAt(table.step_P[0], at) - TurnsAt(table.step_P[0], at - kOne / 256);
    EXPECT_NEAR(static_cast<double>(turned) * 0x1.0p-64 * 6.283185307179586, 1.0 / 256, 1e-12);
  }
  // What the released code's 32-bit floats make of the same steps.
  int lost = 0;
  for (int64_t i = 0; i < 512; ++i) {
    const auto a = static_cast<float>(1000000 + i / 256.0);
    const auto b = static_cast<float>(1000000 + (i + 1) / 256.0);
    lost += a == b;
  }
  EXPECT_GT(lost, 400);
}

// One random sequence that every plan can place: shared text, then documents, images, both roles.
std::vector<PlanSpan> RandomSpans(Rng& rng) {
  std::vector<PlanSpan> spans = {Text(static_cast<int64_t>(rng.Below(4)))};
  for (int i = 1; i <= 12; ++i) {
    PlanSpan span;
    span.n_tokens = static_cast<int64_t>(rng.Below(40));
    span.document = 1 + static_cast<int>(rng.Below(3));
    span.role = rng.Below(2) == 0 ? StreamRole::kSource : StreamRole::kTarget;
    if (rng.Below(3) == 0) {
      span.kind = SpanKind::kImage;
      span.image = i;
      span.n_rows = 1 + static_cast<int>(rng.Below(5));
      span.n_columns = 1 + static_cast<int>(rng.Below(5));
    }
    spans.push_back(span);
  }
  return spans;
}

std::vector<PositionPlanOptions> AllOptions() {
  std::vector<PositionPlanOptions> all;
  for (const PositionPlanInfo* info : PositionPlans()) {
    PositionPlanOptions o{.id = info->id, .target_start = 7 * kOne};
    for (int stride : {1, 64, 256}) {
      o.stride = stride;
      o.sharing = stride == 1    ? PositionSharing::kToken
                  : stride == 64 ? PositionSharing::kRow
                                 : PositionSharing::kExpert;
      all.push_back(o);
    }
  }
  return all;
}

TEST(PositionPlan, ExtendingInAnyPiecesEqualsPlanningFromScratch) {
  Rng rng(20261126);
  for (int round = 0; round < 200; ++round) {
    const std::vector<PlanSpan> spans = RandomSpans(rng);
    for (const PositionPlanOptions& options : AllOptions()) {
      const std::vector<PositionTicks> whole = PlanPositions(options, spans).value();
      auto plan = MakePositionPlan(options).value();
      std::vector<PositionTicks> pieces;
      for (PlanSpan span : spans) {
        for (int64_t left = span.n_tokens; left > 0; left -= span.n_tokens) {
          span.n_tokens = std::min<int64_t>(left, 1 + static_cast<int64_t>(rng.Below(9)));
          ASSERT_TRUE(plan->Extend(span, &pieces).ok());
        }
      }
      ASSERT_EQ(pieces, whole) << options.id;
      // The position after the last is where more of the last text goes.
      PlanSpan more = spans.back();
      if (more.n_tokens == 0 || more.kind == SpanKind::kImage) continue;
      more.n_tokens = 1;
      const PositionTicks next = plan->next_position();
      ASSERT_TRUE(plan->Extend(more, &pieces).ok());
      EXPECT_EQ(pieces.back(), next) << options.id;
    }
  }
}

TEST(PositionPlan, PositionsNeverFallWithinADocumentAndRole) {
  Rng rng(5);
  for (int round = 0; round < 100; ++round) {
    const std::vector<PlanSpan> spans = RandomSpans(rng);
    for (const PositionPlanOptions& options : AllOptions()) {
      const std::vector<PositionTicks> positions = PlanPositions(options, spans).value();
      for (int document = 1; document <= 3; ++document) {
        for (StreamRole role : {StreamRole::kSource, StreamRole::kTarget}) {
          PositionTicks last = -kOne;
          std::size_t t = 0;
          for (const PlanSpan& span : spans) {
            for (int64_t i = 0; i < span.n_tokens; ++i, ++t) {
              if (span.document != document || span.role != role) continue;
              EXPECT_GE(positions[t], last) << options.id;
              last = positions[t];
            }
          }
        }
      }
    }
  }
}

TEST(PositionPlan, EveryPlanAtItsNeutralSettingEqualsSequential) {
  const std::vector<PlanSpan> text = {Text(1), Text(50, 1)};
  const std::vector<PlanSpan> images = {Text(3), Image(24, 1, 3, 4), Image(5, 2, 1, 5), Text(7)};
  const std::vector<PlanSpan> streams = {Stream(StreamRole::kSource, 31),
                                         Stream(StreamRole::kTarget, 20)};
  const PositionPlanOptions plain{.id = "sequential"};
  for (const char* id : {"document_reset", "anchor"}) {
    EXPECT_EQ(PlanPositions({.id = id}, text).value(), PlanPositions(plain, text).value());
    EXPECT_EQ(CountAttendedPairs({.id = id}, text).value(), 51 * 52 / 2);
  }
  EXPECT_EQ(PlanPositions({.id = "v2pe", .stride = 256}, images).value(),
            PlanPositions(plain, images).value());
  EXPECT_EQ(PlanPositions({.id = "shared_ids", .sharing = PositionSharing::kToken}, images).value(),
            PlanPositions(plain, images).value());
  EXPECT_EQ(PlanPositions({.id = "gpe", .target_start = 31 * kOne}, streams).value(),
            PlanPositions(plain, streams).value());
}

TEST(PositionPlan, AttendedPairsFollowThePapersFormula) {
  const std::vector<PlanSpan> spans = {Text(1), Text(10, 1), Text(20, 2), Text(5, 3)};
  int64_t expected = 1;
  for (int64_t n : {10, 20, 5}) expected += n * (n + 1) / 2 + n;
  EXPECT_EQ(CountAttendedPairs({.id = "anchor"}, spans).value(), expected);
  EXPECT_EQ(CountAttendedPairs({.id = "sequential"}, spans).value(), 36 * 37 / 2);
  // Source never sees target; target sees both.
  const std::vector<PlanSpan> streams = {Stream(StreamRole::kSource, 3),
                                         Stream(StreamRole::kTarget, 2),
                                         Stream(StreamRole::kSource, 4)};
  EXPECT_EQ(CountAttendedPairs({.id = "gpe"}, streams).value(), 6 + (3 + 2 * 3) + (10 + 4 * 3));
}

TEST(PositionPlan, WhatCannotBePlacedIsRefusedAndChangesNothing) {
  for (const char* id : {"document_reset", "anchor"}) {
    auto plan = MakePositionPlan({.id = id}).value();
    std::vector<PositionTicks> positions;
    ASSERT_TRUE(plan->Extend(Text(2, 1), &positions).ok());
    EXPECT_EQ(plan->Extend(Text(1), &positions).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(plan->next_position(), 2 * kOne);
  }
  EXPECT_EQ(MakePositionPlan({.id = "v2pe", .stride = 3}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(MakePositionPlan({.id = "gpe", .target_start = INT64_MAX}).status().code(),
            StatusCode::kInvalidArgument);
  const Status unknown = MakePositionPlan({.id = "v3pe"}).status();
  EXPECT_NE(unknown.message().find("v2pe"), std::string::npos) << unknown.message();
  std::vector<PositionTicks> positions;
  for (const PositionPlanInfo* info : PositionPlans()) {
    auto plan = MakePositionPlan({.id = info->id}).value();
    EXPECT_FALSE(plan->Extend(Text(-1), &positions).ok()) << info->id;
    EXPECT_FALSE(plan->Extend(Text(INT64_MAX), &positions).ok()) << info->id;
    EXPECT_TRUE(positions.empty());
  }
  auto grid = MakePositionPlan({.id = "shared_ids"}).value();
  EXPECT_FALSE(grid->Extend(Image(4, 1, 0, 2), &positions).ok());
  ASSERT_TRUE(grid->Extend(Image(4, 1, 2, 2), &positions).ok());
  EXPECT_FALSE(grid->Extend(Image(4, 1, 2, 3), &positions).ok());
}

}  // namespace
}  // namespace phasor
