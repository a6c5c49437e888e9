#include "kvcodec/nearest_level.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "kvcodec/int_codec.h"
#include "simd/cpu.h"
#include "tests/support/level_guard.h"

namespace phasor {
namespace {

// The lower of two that are as near.
int NearestCode(const IntLevels& levels, int book, double quarters) {
  const int n_codes = 1 << levels.bits;
  const int8_t* level = levels.level + book * n_codes;
  int best = 0;
  for (int c = 1; c < n_codes; ++c) {
    if (std::fabs(quarters - 4 * level[c]) < std::fabs(quarters - 4 * level[best])) best = c;
  }
  return best;
}

// Every book over its whole range and beyond, in rows of all lengths; either sign of the step.
TEST(NearestLevel, IsTheNearestOfTheBookAtEveryQuarter) {
  for (CpuLevel cpu : AvailableCpuLevels()) {
    LevelGuard guard(cpu);
    for (const IntLevels* levels : {&kLevelsSearched4, &kLevelsSearched3}) {
      for (int book = 0; book < 1 << levels->book_bits; ++book) {
        for (const float d : {0.5f, -0.125f}) {
          int n = 1;
          for (int first = -300; first < 300; first += n, n = n % 37 + 1) {
            const int padded = (n + 15) / 16 * 16;
            std::vector<float> x(padded, 0.0f), quarters(padded, 7.0f), level(padded, 7.0f);
            std::vector<uint8_t> codes(n + 1, 99);
            for (int i = 0; i < n; ++i) x[i] = static_cast<float>(first + i) * d / 4;
            const NearestRowSums sums = NearestRow({&NearestTablesOf(*levels), book, x.data(), n, d,
                                                    quarters.data(), level.data(), codes.data()});
            float product = 0, square = 0, largest = 0;  // whole numbers, and no rounding in |x|
            for (int i = 0; i < n; ++i) {
              const int cut = std::clamp(first + i, -kFineLevels, kFineLevels - 1);
              const int code = NearestCode(*levels, book, cut);
              EXPECT_EQ(quarters[i], cut);
              EXPECT_EQ(NearestTablesOf(*levels).NearestCode(book, cut), code);
              EXPECT_EQ(codes[i], code) << CpuLevelName(cpu) << " book " << book << " at " << cut;
              EXPECT_EQ(level[i], levels->level[(book << levels->bits) + code]);
              product += quarters[i] * level[i];
              square += level[i] * level[i];
              largest = std::max(largest, std::fabs(x[i]));
            }
            EXPECT_EQ(sums.product, product) << CpuLevelName(cpu) << " n " << n;
            EXPECT_EQ(sums.square, square) << CpuLevelName(cpu) << " n " << n;
            EXPECT_EQ(LargestOfRow(x.data(), n), largest) << CpuLevelName(cpu) << " n " << n;
            for (int i = n; i < padded; ++i) EXPECT_EQ(quarters[i] + level[i], 0.0f);
            EXPECT_EQ(codes[n], 99) << "codes beyond the row were written";
          }
        }
      }
    }
  }
}

TEST(NearestLevel, AStepOfZeroMakesEveryNumberZero) {
  const float x[16] = {1, -65504, 1e-30f};
  float quarters[16], level[16];
  uint8_t codes[3];
  NearestRow({&NearestTablesOf(kLevelsSearched4), 1, x, 3, 0.0f, quarters, level, codes});
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(quarters[i], 0.0f);
    EXPECT_EQ(codes[i], NearestCode(kLevelsSearched4, 1, 0));
  }
}

// The sets of kernels count errors of whole levels in different ways.
TEST(NearestLevel, EveryCpuLevelSearchesTheSame) {
  Rng rng(1);
  for (const IntLevels* levels : {&kLevelsSearched4, &kLevelsSearched3}) {
    const int n_books = 1 << levels->book_bits;
    int8_t nearest[kMaxBooks][128];
    for (int b = 0; b < n_books; ++b) {
      for (int i = -64; i < 64; ++i) {
        nearest[b][i & 127] = levels->level[(b << levels->bits) + NearestCode(*levels, b, 4.0 * i)];
      }
    }
    for (int n : {1, 16, 17, 31, 32, 48, 64, 80, 127, 128, 300}) {
      std::vector<float> x((n + 15) / 16 * 16, 0.0f);
      // Up to the end of what a byte holds, which is beyond the levels.
      for (int i = 0; i < n; ++i) x[i] = static_cast<float>(rng.Uniform() * 254 - 127);
      float inverse[kSearchSteps];
      for (int i = 0; i < kSearchSteps; ++i) inverse[i] = 1.0f / static_cast<float>(1 + i);
      for (CpuLevel cpu : AvailableCpuLevels()) {
        int32_t error[kSearchSteps][2 * kMaxBooks];
        GetIntKernels(cpu).search(
            {x.data(), n, n_books, nearest, &NearestTablesOf(*levels), inverse, error});
        for (int step = 0; step < kSearchSteps; ++step) {
          for (int v = 0; v < 2 * n_books; ++v) {
            int32_t want = 0;
            for (int i = 0; i < n; ++i) {
              const int y =
                  static_cast<int>(std::lrint(x[i] * inverse[step])) * (v % 2 == 0 ? 1 : -1);
              const int e = y - nearest[v / 2][std::clamp(y, -64, 63) & 127];
              want += e * e;
            }
            EXPECT_EQ(error[step][v], want)
                << CpuLevelName(cpu) << " n " << n << " step " << step << " choice " << v;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace phasor
