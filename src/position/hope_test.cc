#include <gtest/gtest.h>

#include <algorithm>

#include "registry/position_table.h"

namespace phasor {
namespace {

std::vector<uint64_t> Steps(const char* method, int n_rot, double base, int64_t cut) {
  RopeParams p;
  p.n_rot = n_rot;
  p.theta_base = base;
  p.method = method;
  p.cut_context = cut;
  return MakePhaseTable(p).value().step_P;
}

TEST(HopePosition, KeepsAsManyPairsAsTurnOnceInTheContext) {
  const struct {
    int n_rot;
    double base;
    int64_t context, kept;
  } cases[] = {
      {64, 1e4, 512, 16}, {128, 1e4, 2048, 41}, {128, 1e4, 4096, 46}, {128, 5e5, 4096, 32}};
  for (const auto& c : cases) {
    const std::vector<uint64_t> rope = Steps("rope", c.n_rot, c.base, -1);
    const std::vector<uint64_t> hope = Steps("hope", c.n_rot, c.base, c.context);
    for (int64_t j = 0; j < c.n_rot / 2; ++j) {
      EXPECT_EQ(hope[j], j < c.kept ? rope[j] : 0) << c.context << " pair " << j;
    }
  }
}

TEST(HopePosition, ACutAtZeroStopsEveryPairAsNoneDoes) {
  EXPECT_EQ(Steps("hope", 64, 1e4, 0), Steps("nope", 64, 1e4, -1));
}

TEST(HopePosition, ItsCutIsTheOriginalContextUnlessGiven) {
  RopeParams p;
  p.n_rot = 128;
  p.method = "hope";
  p.original_context = 4096;
  EXPECT_EQ(MakePhaseTable(p).value().step_P, Steps("hope", 128, 1e4, 4096));
}

}  // namespace
}  // namespace phasor
