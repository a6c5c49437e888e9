#include "kvcodec/searched_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "kvcodec/int_codec.h"
#include "simd/cpu.h"
#include "tensor/half.h"
#include "tests/support/level_guard.h"

namespace phasor {
namespace {

// ---- The same for one row, in plain loops; where floats are rounded, in the same order ----

constexpr double kReach4[] = {0.873, 0.0563}, kReach3[] = {0.584, 0.0841};  // first, step

int Nearest(const IntLevels& levels, int book, double quarters) {
  return NearestTablesOf(levels).NearestCode(book, static_cast<int>(quarters));
}
int LevelOf(const IntLevels& levels, int book, int code) {
  return levels.level[(book << levels.bits) + code];
}
float Quarters(float x, float d) {
  const float scaled = d == 0 ? 0 : x * (4.0f / d);
  return std::nearbyint(std::clamp(scaled, -256.0f, 255.0f));
}

// Of all patterns whose low bits name the book, by trying those around; the lowest of equal ones
// but for the one whose upper bits are those of d itself.
uint16_t PatternOf(float d, int book, int book_bits) {
  const int step = 1 << book_bits, base = (F32ToF16(d) & ~(step - 1)) | book;
  int best = base;
  for (int candidate : {base - step, base + step}) {
    if (candidate < 0 || candidate >= 0x7c00) continue;
    if (std::fabs(F16ToF32(static_cast<uint16_t>(candidate)) - d) <
        std::fabs(F16ToF32(static_cast<uint16_t>(best)) - d)) {
      best = candidate;
    }
  }
  return static_cast<uint16_t>(best);
}

uint16_t Lengthened(const IntLevels& levels, float square, float product, uint16_t scale) {
  const float longer = product != 0 ? square / std::fabs(product) : 0.0f;
  const float fitted = std::fabs(F16ToF32(scale));
  if (longer * 1.25f <= fitted || longer >= 1.25f * fitted) return scale;
  const int book = scale & ((1 << levels.book_bits) - 1);
  return static_cast<uint16_t>(PatternOf(longer, book, levels.book_bits) | (scale & 0x8000));
}

uint16_t ScaleOf(const IntLevels& levels, const std::vector<float>& x) {
  const double* reaches = levels.bits == 4 ? kReach4 : kReach3;
  float top = 0;
  for (float v : x) top = std::max(top, std::fabs(v));
  if (top < 63 * 0x1p-25f) return 0;
  float best = 0, d = 0;
  int best_book = -1;
  for (int book = 0; book < 1 << levels.book_bits; ++book) {
    for (int sign : {1, -1}) {
      for (int i = 0; i < kSearchSteps; ++i) {
        const float reach =
            static_cast<float>(reaches[0]) + static_cast<float>(reaches[1]) * static_cast<float>(i);
        const float inverse = 63 / (top * reach);
        int error = 0;
        for (float v : x) {
          const int y = sign * static_cast<int>(std::nearbyint(v * inverse));
          const int e =
              y - LevelOf(levels, book, Nearest(levels, book, 4 * std::clamp(y, -64, 63)));
          error += e * e;
        }
        const float e = static_cast<float>(error) * (reach * reach);
        if (best_book < 0 || e < best) {
          best = e;
          best_book = book;
          d = top * reach / (sign < 0 ? -63.0f : 63.0f);
        }
      }
    }
  }
  float product = 0, square = 0;  // whole numbers
  for (float v : x) {
    const float quarters = Quarters(v, d);
    const int level = LevelOf(levels, best_book, Nearest(levels, best_book, quarters));
    product += quarters * static_cast<float>(level);
    square += static_cast<float>(level * level);
  }
  if (product > 0 && square > 0) d *= product / (4 * square);
  return static_cast<uint16_t>(PatternOf(std::fabs(d), best_book, levels.book_bits) |
                               (d < 0 ? 0x8000 : 0));
}

uint16_t QuantizeRow(const IntLevels& levels, const std::vector<float>& x, uint8_t* codes) {
  const uint16_t scale = ScaleOf(levels, x);
  const int book = scale & ((1 << levels.book_bits) - 1);
  float product = 0, square = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    codes[i] = static_cast<uint8_t>(Nearest(levels, book, Quarters(x[i], F16ToF32(scale))));
    product += x[i] * static_cast<float>(LevelOf(levels, book, codes[i]));
    square += x[i] * x[i];
  }
  return Lengthened(levels, square, product, scale);
}

// ---- Tests ----

// Rows of every kind: of ordinary size, tiny up to what f16 rounds to zero, as large as it holds,
// all zero, one number among zeros, on levels exactly.
std::vector<float> RowOfKind(int kind, int n, Rng* rng) {
  std::vector<float> x(static_cast<std::size_t>(n));
  const double size = kind == 1   ? std::exp2(-20 - 8 * rng->Uniform())
                      : kind == 2 ? 15000
                                  : std::exp2(6 * rng->Uniform() - 3);
  for (float& v : x) {
    v = static_cast<float>(std::clamp(rng->Normal() * size, -65504.0, 65504.0));
    if (kind == 3) v = 0;
    if (kind == 5) v = static_cast<float>(rng->Below(127)) - 63;
  }
  if (kind == 4) {
    std::fill(x.begin(), x.end(), 0.0f);
    x[rng->Below(x.size())] = -3;
  }
  return x;
}

TEST(SearchedRows, EveryCpuLevelFindsTheScalesAndCodesOfPlainLoops) {
  Rng rng(3);
  for (const IntLevels* levels : {&kLevelsSearched4, &kLevelsSearched3}) {
    for (int n : {1, 2, 3, 16, 45, 64, 80, 100, 128, 256}) {
      std::vector<float> x_DT(static_cast<std::size_t>(n + 3) / 4 * 4 * kStripRows, 0.0f);
      uint16_t scale[kStripRows], shortened[kStripRows];
      std::vector<uint8_t> codes(static_cast<std::size_t>(n) * kStripRows);
      for (int t = 0; t < kStripRows; ++t) {
        const std::vector<float> x = RowOfKind(t % 6, n, &rng);
        std::vector<uint8_t> of_row(x.size());
        shortened[t] = ScaleOf(*levels, x);
        scale[t] = QuantizeRow(*levels, x, of_row.data());
        for (int i = 0; i < n; ++i) {
          x_DT[i * kStripRows + t] = x[i];
          codes[i * kStripRows + t] = of_row[i];
        }
      }
      for (CpuLevel cpu : AvailableCpuLevels()) {
        LevelGuard guard(cpu);
        SCOPED_TRACE(std::string(CpuLevelName(cpu)) + " bits " + std::to_string(levels->bits) +
                     " n " + std::to_string(n));
        uint16_t found[kStripRows], without[kStripRows];
        std::vector<uint8_t> codes_DT(codes.size() + 1, 99);
        QuantizeStrip({levels, x_DT.data(), n, found, codes_DT.data()});
        QuantizeStrip({levels, x_DT.data(), n, without, nullptr});
        for (int t = 0; t < kStripRows; ++t) {
          EXPECT_EQ(found[t], scale[t]) << "row " << t;
          EXPECT_EQ(without[t], shortened[t]) << "row " << t;
          for (int i = 0; i < n; ++i) {
            ASSERT_EQ(codes_DT[i * kStripRows + t], codes[i * kStripRows + t])
                << "row " << t << " channel " << i;
          }
        }
        EXPECT_EQ(codes_DT.back(), 99) << "codes beyond the strip were written";
      }
    }
  }
}

TEST(SearchedRows, ScalesAreLengthenedWhereThatIsNotFar) {
  Rng rng(4);
  for (const IntLevels* levels : {&kLevelsSearched4, &kLevelsSearched3}) {
    for (int round = 0; round < 200; ++round) {
      float square[kStripRows], product[kStripRows];
      uint16_t scale[kStripRows];
      for (int t = 0; t < kStripRows; ++t) {
        const auto size = static_cast<float>(std::exp2(24 * rng.Uniform() - 25));
        scale[t] = static_cast<uint16_t>(F32ToF16(size) | (rng.Below(2) << 15));
        product[t] = static_cast<float>(rng.Normal());
        square[t] = std::fabs(product[t]) * size * static_cast<float>(0.6 + 0.8 * rng.Uniform());
        if (t == 3) product[t] = 0;
        if (t == 4) scale[t] = 0;
      }
      for (CpuLevel cpu : AvailableCpuLevels()) {
        LevelGuard guard(cpu);
        uint16_t longer[kStripRows];
        std::copy_n(scale, kStripRows, longer);
        LengthenScales(*levels, square, product, longer);
        for (int t = 0; t < kStripRows; ++t) {
          EXPECT_EQ(longer[t], Lengthened(*levels, square[t], product[t], scale[t]))
              << CpuLevelName(cpu) << " scale " << scale[t] << " square " << square[t]
              << " product " << product[t];
        }
      }
    }
  }
}

TEST(SearchedRows, ColumnsAreFiniteAndPadded) {
  Rng rng(5);
  for (CpuLevel cpu : AvailableCpuLevels()) {
    LevelGuard guard(cpu);
    for (int D : {1, 4, 7, 64, 80, 99}) {
      for (int n : {1, 3, 4, 13, 16}) {
        std::vector<float> x(static_cast<std::size_t>(n) * D);
        for (float& v : x) {
          v = static_cast<float>(rng.Normal());
          if (rng.Below(10) == 0) v = std::numeric_limits<float>::quiet_NaN();
          if (rng.Below(10) == 0) v = std::numeric_limits<float>::infinity();
          if (rng.Below(10) == 0) v = -1e30f;
        }
        const int padded = (D + 15) / 16 * 16;
        std::vector<float> x_DT(static_cast<std::size_t>(padded) * kStripRows + 1, 7.0f);
        FiniteColumns(x.data(), n, D, padded, x_DT.data());
        for (int d = 0; d < padded; ++d) {
          for (int t = 0; t < kStripRows; ++t) {
            const float v = t < n && d < D ? x[t * D + d] : 0;
            EXPECT_EQ(x_DT[d * kStripRows + t],
                      std::isnan(v) ? 0 : std::clamp(v, -65504.0f, 65504.0f));
          }
        }
        EXPECT_EQ(x_DT.back(), 7.0f);
      }
    }
  }
}

}  // namespace
}  // namespace phasor
