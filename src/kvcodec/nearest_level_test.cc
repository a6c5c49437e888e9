#include "kvcodec/nearest_level.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "kvcodec/int_codec.h"
#include "kvcodec/searched_rows.h"
#include "simd/cpu.h"

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

TEST(NearestLevel, IsTheNearestOfTheBookAtEveryQuarter) {
  for (const IntLevels* levels : {&kLevelsSearched4, &kLevelsSearched3}) {
    for (int book = 0; book < 1 << levels->book_bits; ++book) {
      for (int quarters = -kFineLevels; quarters < kFineLevels; ++quarters) {
        EXPECT_EQ(NearestTablesOf(*levels).NearestCode(book, quarters),
                  NearestCode(*levels, book, quarters))
            << "book " << book << " at " << quarters;
      }
    }
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
    for (int n : {1, 2, 7, 16, 63, 64, 80, 127, 300}) {
      std::vector<float> x((n + 3) / 4 * 4 * 16, 0.0f);
      // Up to the end of what a byte holds, which is beyond the levels.
      for (int i = 0; i < 16 * n; ++i) x[i] = static_cast<float>(rng.Uniform() * 254 - 127);
      float inverse[kSearchSteps][16];
      for (float(&of_step)[16] : inverse) {
        for (float& f : of_step) f = static_cast<float>(rng.Uniform());
      }
      for (CpuLevel cpu : AvailableCpuLevels()) {
        int32_t error[kSearchSteps][2 * kMaxBooks][16];
        GetIntKernels(cpu).search(
            {x.data(), n, n_books, nearest, &NearestTablesOf(*levels), inverse, error});
        for (int step = 0; step < kSearchSteps; ++step) {
          for (int v = 0; v < 2 * n_books; ++v) {
            for (int t = 0; t < 16; ++t) {
              int32_t want = 0;
              for (int i = 0; i < n; ++i) {
                const int y = static_cast<int>(std::lrint(x[16 * i + t] * inverse[step][t])) *
                              (v % 2 == 0 ? 1 : -1);
                const int e = y - nearest[v / 2][std::clamp(y, -64, 63) & 127];
                want += e * e;
              }
              ASSERT_EQ(error[step][v][t], want) << CpuLevelName(cpu) << " n " << n << " step "
                                                 << step << " choice " << v << " row " << t;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace phasor
