// Tile instructions against plain loops: the emulation where the build emulates, else the
// instructions of a CPU that has them, with PHASOR_AMX=1.
#if defined(__x86_64__)
#include "simd/amx.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"
#include "simd/cpu.h"
#include "simd/cpu_test_util.h"
#include "simd/target.h"

namespace phasor {
namespace {

struct TileShape {
  int n_rows, n_columns, depth;  // a [n_rows][depth] bytes, b [depth / 4][n_columns][4] bytes
};

struct TileOperands {
  std::vector<int8_t> a;
  std::vector<uint8_t> b;
  std::vector<int32_t> sums;
};

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AMX
namespace phasor {
namespace {

void AddTileProducts(const TileShape& shape, TileOperands* x) {
  TileConfig config;
  config.n_rows[0] = config.n_rows[1] = static_cast<uint8_t>(shape.n_rows);
  config.n_rows[2] = static_cast<uint8_t>(shape.depth / 4);
  config.row_bytes[0] = config.row_bytes[2] = static_cast<uint16_t>(4 * shape.n_columns);
  config.row_bytes[1] = static_cast<uint16_t>(shape.depth);
  StoreBeforeTileLoad(&config);
  _tile_loadconfig(&config);
  _tile_loadd(0, x->sums.data(), 4 * shape.n_columns);
  _tile_loadd(1, x->a.data(), shape.depth);
  _tile_loadd(2, x->b.data(), 4 * shape.n_columns);
  _tile_dpbsud(0, 1, 2);
  _tile_stored(0, x->sums.data(), 4 * shape.n_columns);
  _tile_release();
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
namespace {

TEST(Amx, ProductsOfTilesAreThoseOfLoops) {
  if (!TestAmx()) GTEST_SKIP() << "needs an emulating build, or PHASOR_AMX=1 on a CPU with AMX";
  Rng rng(25);
  for (int round = 0; round < 200; ++round) {
    const TileShape shape = {1 + static_cast<int>(rng.Below(16)),
                             1 + static_cast<int>(rng.Below(16)),
                             4 + 4 * static_cast<int>(rng.Below(16))};
    TileOperands x;
    for (int i = 0; i < shape.n_rows * shape.depth; ++i) {
      x.a.push_back(static_cast<int8_t>(rng.Below(256)));
    }
    for (int i = 0; i < shape.n_columns * shape.depth; ++i) {
      x.b.push_back(static_cast<uint8_t>(rng.Below(256)));
    }
    for (int i = 0; i < shape.n_rows * shape.n_columns; ++i) {
      x.sums.push_back(static_cast<int32_t>(rng.NextU64()));  // some of the sums wrap
    }
    std::vector<int32_t> expected;
    for (int m = 0; m < shape.n_rows; ++m) {
      for (int n = 0; n < shape.n_columns; ++n) {
        uint32_t sum = static_cast<uint32_t>(x.sums[m * shape.n_columns + n]);
        for (int k = 0; k < shape.depth; ++k) {
          const int b = x.b[k / 4 * 4 * shape.n_columns + 4 * n + k % 4];
          sum += static_cast<uint32_t>(x.a[m * shape.depth + k] * b);
        }
        expected.push_back(static_cast<int32_t>(sum));
      }
    }
    AddTileProducts(shape, &x);
    ASSERT_EQ(x.sums, expected) << shape.n_rows << " rows, " << shape.n_columns
                                << " columns, depth " << shape.depth;
  }
}

}  // namespace
}  // namespace phasor
#endif  // __x86_64__
