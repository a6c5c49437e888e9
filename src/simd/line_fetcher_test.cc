#include "simd/line_fetcher.h"

#include <gtest/gtest.h>

#include <vector>

namespace phasor {
namespace {

TEST(LineFetcher, StepsLeaveNoLineOut) {
  const std::vector<std::byte> memory(70000);
  for (std::size_t n_bytes : {1u, 64u, 100u, 4352u, 8704u, 65536u}) {
    for (int n_steps : {-1, 0, 1, 2, 7, 16, 68, 100, 300}) {
      LineFetcher fetcher({memory.data(), n_bytes}, n_steps);
      const int steps = n_steps < 1 ? 1 : n_steps;
      const std::size_t requests = (n_bytes + 64 * steps - 1) / (64 * steps);
      for (int i = 0; i < steps; ++i) {
        const std::byte* before = fetcher.at();
        fetcher.Step();
        EXPECT_LE(static_cast<std::size_t>(fetcher.at() - before), 64 * requests);
      }
      EXPECT_GE(fetcher.at(), memory.data() + n_bytes) << n_bytes << " in " << n_steps;
      // Not far beyond: less than a byte more for each request.
      EXPECT_LT(fetcher.at(), memory.data() + n_bytes + requests * steps);
    }
  }
}

TEST(LineFetcher, SingleStepsAndTheRest) {
  const std::vector<std::byte> memory(70000);
  LineFetcher enough({memory.data(), 4352}, 80);
  enough.Steps<3>();
  enough.Steps<0>();
  enough.Steps(77);
  EXPECT_GE(enough.at(), memory.data() + 4352);
  LineFetcher few({memory.data(), 65536}, 80);
  few.Steps(80);
  EXPECT_LE(few.at(), memory.data() + 80 * 64);
  EXPECT_LT(few.at(), memory.data() + 65536);
  few.Finish();
  EXPECT_GE(few.at(), memory.data() + 65536);
}

TEST(LineFetcher, NothingIsAsked) {
  LineFetcher none({nullptr, 0}, 16), made;
  const std::byte* before = none.at();
  ASSERT_NE(before, nullptr);
  for (LineFetcher* f : {&none, &made}) {
    f->Step();
    f->Steps(5);
    f->Steps<2>();
    f->Finish();
    EXPECT_EQ(f->at(), before);
  }
}

}  // namespace
}  // namespace phasor
