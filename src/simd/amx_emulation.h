// Tile registers as arrays, for tests only. Included by simd/amx.h, which defines TileConfig. What
// makes the instructions fault aborts.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "tensor/half.h"

namespace phasor::emulated {

struct Tiles {
  static constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;
  bool is_configured = false;
  TileConfig config;
  uint8_t byte[kTiles][kRows][kRowBytes] = {};
};

inline Tiles& ThreadTiles() {
  static thread_local Tiles tiles;
  return tiles;
}

inline void tile_loadconfig(const void* from) {
  Tiles& tiles = ThreadTiles();
  TileConfig& config = tiles.config;
  std::memcpy(&config, from, sizeof(config));
  PHASOR_CHECK(config.palette == 1 && config.start_row == 0);
  for (uint8_t b : config.reserved) PHASOR_CHECK(b == 0);
  for (int i = 0; i < 16; ++i) {
    PHASOR_CHECK((config.row_bytes[i] == 0) == (config.n_rows[i] == 0));
    PHASOR_CHECK(config.row_bytes[i] <= Tiles::kRowBytes && config.n_rows[i] <= Tiles::kRows);
    PHASOR_CHECK(i < Tiles::kTiles || config.n_rows[i] == 0);
  }
  std::memset(tiles.byte, 0, sizeof(tiles.byte));
  tiles.is_configured = true;
}

inline void tile_release() { ThreadTiles().is_configured = false; }

// The tiles of this thread, after the checks that every use of tile i makes.
inline Tiles& UseTile(int i) {
  Tiles& tiles = ThreadTiles();
  PHASOR_CHECK(tiles.is_configured && i >= 0 && i < Tiles::kTiles && tiles.config.n_rows[i] > 0);
  return tiles;
}

inline void tile_zero(int i) { std::memset(UseTile(i).byte[i], 0, sizeof(Tiles::byte[i])); }

inline void tile_loadd(int i, const void* base, int64_t stride_bytes) {
  Tiles& tiles = UseTile(i);
  std::memset(tiles.byte[i], 0, sizeof(tiles.byte[i]));
  for (int r = 0; r < tiles.config.n_rows[i]; ++r) {
    std::memcpy(tiles.byte[i][r], static_cast<const char*>(base) + r * stride_bytes,
                tiles.config.row_bytes[i]);
  }
}

inline void tile_stored(int i, void* base, int64_t stride_bytes) {
  const Tiles& tiles = UseTile(i);
  for (int r = 0; r < tiles.config.n_rows[i]; ++r) {
    std::memcpy(static_cast<char*>(base) + r * stride_bytes, tiles.byte[i][r],
                tiles.config.row_bytes[i]);
  }
}

// The number in bfloat16 at `at`; denormal numbers count as zero.
inline float LoadBf16(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof(half));
  return (half & 0x7f80) == 0 ? 0.0f : Bf16ToF32(half);
}

// Results of the instruction are never denormal.
inline float FlushDenormal(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? 0.0f : x; }

// Pairs of bfloat16: even and odd columns of a are summed apart, then both are added to the sums.
inline void tile_dpbf16ps(int sums, int a, int b) {
  Tiles& tiles = UseTile(sums);
  UseTile(a), UseTile(b);
  const TileConfig& config = tiles.config;
  PHASOR_CHECK(sums != a && sums != b && a != b);
  PHASOR_CHECK(config.row_bytes[sums] % 4 == 0 && config.row_bytes[a] % 4 == 0);
  PHASOR_CHECK(config.n_rows[sums] == config.n_rows[a]);
  PHASOR_CHECK(config.row_bytes[sums] == config.row_bytes[b]);
  PHASOR_CHECK(config.row_bytes[a] / 4 == config.n_rows[b]);
  for (int m = 0; m < config.n_rows[sums]; ++m) {
    for (int n = 0; n < config.row_bytes[sums] / 4; ++n) {
      float part[2] = {};
      for (int k = 0; k < config.row_bytes[a] / 2; ++k) {
        const float x = LoadBf16(&tiles.byte[a][m][2 * k]);
        const float y = LoadBf16(&tiles.byte[b][k / 2][4 * n + 2 * (k % 2)]);
        part[k % 2] = FlushDenormal(std::fma(x, y, part[k % 2]));
      }
      float sum;
      std::memcpy(&sum, &tiles.byte[sums][m][4 * n], sizeof(sum));
      sum = FlushDenormal(FlushDenormal(sum) + FlushDenormal(part[0] + part[1]));
      std::memcpy(&tiles.byte[sums][m][4 * n], &sum, sizeof(sum));
    }
  }
}

}  // namespace phasor::emulated

#undef _tile_dpbf16ps
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#define _tile_dpbf16ps phasor::emulated::tile_dpbf16ps
#define _tile_loadconfig phasor::emulated::tile_loadconfig
#define _tile_loadd phasor::emulated::tile_loadd
#define _tile_release phasor::emulated::tile_release
#define _tile_stored phasor::emulated::tile_stored
#define _tile_zero phasor::emulated::tile_zero
