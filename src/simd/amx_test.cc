// Tile instructions against plain loops: those of the CPU, or the emulation where the build has it.
#if defined(__x86_64__)
#include "simd/amx.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "simd/cpu.h"
#include "simd/target.h"
#include "tensor/half.h"

namespace phasor {
namespace {

struct TileShape {
  int n_rows, n_columns, depth;  // a [n_rows][depth], b [depth / 2][n_columns][2]
};

struct TileOperands {
  std::vector<uint16_t> a, b;  // bfloat16
  std::vector<float> sums;
};

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AMX
namespace phasor {
namespace {

void AddTileProducts(const TileShape& shape, TileOperands* x) {
  TileConfig config;
  config.n_rows[0] = config.n_rows[1] = static_cast<uint8_t>(shape.n_rows);
  config.n_rows[2] = static_cast<uint8_t>(shape.depth / 2);
  config.row_bytes[0] = config.row_bytes[2] = static_cast<uint16_t>(4 * shape.n_columns);
  config.row_bytes[1] = static_cast<uint16_t>(2 * shape.depth);
  StoreBeforeTileLoad(&config);
  _tile_loadconfig(&config);
  _tile_loadd(0, x->sums.data(), 4 * shape.n_columns);
  _tile_loadd(1, x->a.data(), 2 * shape.depth);
  _tile_loadd(2, x->b.data(), 4 * shape.n_columns);
  _tile_dpbf16ps(0, 1, 2);
  _tile_stored(0, x->sums.data(), 4 * shape.n_columns);
  _tile_release();
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
namespace {

// Random numbers of very different sizes, zeros and denormal ones among them.
uint16_t RandomBf16(Rng& rng) {
  const auto kind = rng.Below(10);
  if (kind == 0) return 0;
  if (kind == 1) return static_cast<uint16_t>(rng.Below(0x80) | rng.Below(2) << 15);
  return F32ToBf16(static_cast<float>(rng.Normal() * std::exp2(2.0 * rng.Normal())));
}

// As the instruction takes it.
float WithoutDenormal(uint16_t bits) { return (bits & 0x7f80) == 0 ? 0.0f : Bf16ToF32(bits); }

TEST(Amx, ProductsOfTilesAreThoseOfLoops) {
  if (!HasAmx()) GTEST_SKIP() << "needs a CPU with AMX-BF16, or an emulating build";
  Rng rng(25);
  for (int round = 0; round < 200; ++round) {
    const TileShape shape = {1 + static_cast<int>(rng.Below(16)),
                             1 + static_cast<int>(rng.Below(16)),
                             2 + 2 * static_cast<int>(rng.Below(16))};
    TileOperands x;
    for (int i = 0; i < shape.n_rows * shape.depth; ++i) x.a.push_back(RandomBf16(rng));
    for (int i = 0; i < shape.n_columns * shape.depth; ++i) x.b.push_back(RandomBf16(rng));
    for (int i = 0; i < shape.n_rows * shape.n_columns; ++i) {
      x.sums.push_back(static_cast<float>(rng.Normal()));
    }
    std::vector<double> expected, magnitude;
    for (int m = 0; m < shape.n_rows; ++m) {
      for (int n = 0; n < shape.n_columns; ++n) {
        double sum = x.sums[static_cast<std::size_t>(m * shape.n_columns + n)];
        double total = std::abs(sum);
        for (int k = 0; k < shape.depth; ++k) {
          const auto at = static_cast<std::size_t>((k / 2 * shape.n_columns + n) * 2 + k % 2);
          const double product = static_cast<double>(WithoutDenormal(
                                     x.a[static_cast<std::size_t>(m * shape.depth + k)])) *
                                 WithoutDenormal(x.b[at]);
          sum += product;
          total += std::abs(product);
        }
        expected.push_back(sum);
        magnitude.push_back(total);
      }
    }
    AddTileProducts(shape, &x);
    for (std::size_t i = 0; i < x.sums.size(); ++i) {
      // Each of the additions may lose half a unit of the total.
      ASSERT_NEAR(x.sums[i], expected[i], (shape.depth + 2) * 0x1.0p-24 * magnitude[i] + 1e-37)
          << shape.n_rows << " rows, " << shape.n_columns << " columns, depth " << shape.depth;
    }
  }
}

}  // namespace
}  // namespace phasor
#endif  // __x86_64__
