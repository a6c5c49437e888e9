#include <gtest/gtest.h>

#include "registry/position_table.h"

namespace phasor {
namespace {

TEST(NonePosition, TurnsNothing) {
  RopeParams p;
  p.n_rot = 64;
  p.method = "nope";
  const PhaseTable t = MakePhaseTable(p).value();
  EXPECT_EQ(t.step_P, std::vector<uint64_t>(32, 0));
  EXPECT_EQ(t.attention_factor, 1.0f);
}

}  // namespace
}  // namespace phasor
