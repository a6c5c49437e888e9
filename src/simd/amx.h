// Tile registers (AMX): eight registers of up to 16 rows of 64 bytes, and products of whole tiles.
// Kernel files include this and not <immintrin.h>. In a build with PHASOR_EMULATE_AVX512 the
// intrinsics are plain C++ (simd/amx_emulation.h).
//
// How products of bfloat16 are laid out (Intel's manual, volume 2, TDPBF16PS): sums[m][n] += sum
// over k, j < 2 of a[m][2 k + j] b[k][2 n + j], so a row of b is 16 lanes of two numbers that
// follow each other in the depth.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/target.h"

namespace phasor {

// What _tile_loadconfig reads, for up to eight tiles.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};  // 4 to 64
  uint8_t n_rows[16] = {};      // 1 to 16
};
static_assert(sizeof(TileConfig) == 64);

// Stands between stores to an object and the tile instruction that reads it: GCC 12 does not tell
// its optimizer that _tile_loadd reads memory, nor that _tile_loadconfig reads 64 bytes of it.
PHASOR_INLINE void StoreBeforeTileLoad(const void* object) {
  asm volatile("" : : "r"(object) : "memory");
}

}  // namespace phasor

#if defined(PHASOR_EMULATE_AVX512)
#include "simd/amx_emulation.h"
#endif
