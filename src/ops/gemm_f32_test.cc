#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/rng.h"
#include "ops/matmul.h"
#include "simd/cpu.h"

namespace phasor {
namespace {

// Each of k additions and products, and the final addition to c, may lose half a unit of the total
// magnitude (the scalar level rounds twice per term).
double Tolerance(int k, double magnitude) { return (2.0 * k + 2) * 0x1.0p-24 * magnitude; }

class GemmF32Test : public ::testing::TestWithParam<CpuLevel> {
 protected:
  void SetUp() override { ASSERT_TRUE(SetCpuLevel(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SetCpuLevel(DetectedCpuLevel()).ok()); }
};

TEST_P(GemmF32Test, AnyShapeMatchesDoubleAndTouchesNothingElse) {
  Rng rng(11);
  auto random = [&](int n) {
    std::vector<float> v(static_cast<std::size_t>(n));
    for (float& x : v) x = static_cast<float>(rng.Normal());
    return v;
  };
  for (int m : {1, 2, 5, 6, 7, 16, 29}) {
    for (int n : {1, 7, 8, 15, 16, 17, 24, 33, 48, 63, 64, 65, 128, 131}) {
      for (int k : {0, 1, 5, 64}) {
        const bool accumulate = (m + n + k) % 2 == 0;
        const int lda = k + 3, ldb = n + 1, ldc = n + 5;
        // Exactly as long as the last row needs, so that a checker of memory sees any overrun.
        auto a = random(k == 0 ? 0 : (m - 1) * lda + k);
        auto b = random(k == 0 ? 0 : (k - 1) * ldb + n);
        auto c = random((m - 1) * ldc + n);
        const auto before = c;
        GemmF32(a.data(), lda, b.data(), ldb, c.data(), ldc, m, n, k, accumulate);
        for (int i = 0; i < static_cast<int>(c.size()); ++i) {
          const int row = i / ldc, column = i % ldc;
          const std::size_t at = static_cast<std::size_t>(i);
          if (column >= n) {
            ASSERT_EQ(c[at], before[at]) << "wrote past column " << n;
            continue;
          }
          double sum = accumulate ? before[at] : 0, magnitude = std::abs(sum);
          for (int p = 0; p < k; ++p) {
            double term = static_cast<double>(a[static_cast<int64_t>(row) * lda + p]) *
                          b[static_cast<int64_t>(p) * ldb + column];
            sum += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(c[at], sum, Tolerance(k, magnitude))
              << "m " << m << " n " << n << " k " << k << " at " << row << ", " << column;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, GemmF32Test, ::testing::ValuesIn(AvailableCpuLevels()),
                         [](const auto& info) { return std::string(CpuLevelName(info.param)); });

}  // namespace
}  // namespace phasor
