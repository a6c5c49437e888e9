// AMX: products of many tokens, with weights and activations rounded to bfloat16. BF16 weights are
// exact.
//
// Weights keep their scales of 32 columns and activations lose less than in 8 bits (up to 1/256 of
// every number instead of 1/254 of the largest of 32), and because scales are in the operands, sums
// stay in the tile registers from the first column to the last. Products of int8 with tiles (the
// predecessor of this file) were as slow as vpdpbusd: their sums leave the tile every 32 columns to
// be scaled, and that takes what the product saves.
//
// A block of 32 columns of a panel is one tile as tdpbf16ps wants its second operand: row k holds
// columns 2k and 2k + 1 of the panel's 16 rows in turn. Panels are decoded into such tiles once per
// call, as many as stay in the L2 cache, and all tokens pass by. Activations are tiles of 16 tokens
// and 32 columns. Two groups of tokens times two panels take every tile twice from the cache, which
// is what keeps the multiplier busy: measured, four products and four loads take 64 cycles, as four
// products alone do.
#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12 takes the undefined operand inside its own intrinsics for an error of ours (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <algorithm>
#include <cstring>

#include "ops/matmul.h"
#include "ops/matmul_avx512-inl.h"
#include "ops/matmul_kernels.h"
#include "simd/amx.h"
#include "simd/avx512.h"
#include "simd/target.h"

PHASOR_BEGIN_AMX
namespace phasor {
namespace {

constexpr int kTileTokens = 16;
constexpr int kTileBytes = 1024;
// Decoded weights of up to so many columns at a time, in room that fits the L2 cache beside the
// activations of two groups. A multiple of the 256 columns that share super scales.
constexpr int64_t kMaxColumns = 2048;
constexpr int64_t kRoomTiles = 1024;
// Products come four tiles at a time, so there must be room for four panels.
static_assert(kRoomTiles >= 4 * kMaxColumns / kCodeBlock);

// ---- Decoding weights ------------------------------------------------------------------------

// The bytes j = 0 ... 3 of every lane as floats 256 + byte: shifted into the upper mantissa bits.
template <int kByte>
PHASOR_INLINE __m512 FloatsAbove256(__m512i bytes) {
  constexpr int kShift = 15 - 8 * kByte;  // to the left
  __m512i bits;
  if constexpr (kShift > 0) {
    bits = _mm512_slli_epi32(bytes, kShift);
  } else {
    bits = _mm512_srli_epi32(bytes, -kShift);
  }
  constexpr int kAndOr = 0xea;  // (a & b) | c
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bits, _mm512_set1_epi32(0x007f8000),
                                                       _mm512_set1_epi32(0x43800000), kAndOr));
}

// Rounds to bfloat16, halves away from zero, and puts `even` below `odd` in every lane.
PHASOR_INLINE __m512i RoundPairs(__m512 even, __m512 odd) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
  return OrMasked(low, _mm512_add_epi32(_mm512_castps_si512(odd), half),
                  _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}

// One code vector, [16 rows][4 columns], to two rows of a tile: scale * code + offset.
// `offset` is what 256 * scale too much in the codes comes to, and the offset of the format.
PHASOR_INLINE void DecodeVector(__m512i codes, __m512 scale, __m512 offset, std::byte* tile_rows) {
  const __m512 a = _mm512_fmadd_ps(FloatsAbove256<0>(codes), scale, offset);
  const __m512 b = _mm512_fmadd_ps(FloatsAbove256<1>(codes), scale, offset);
  const __m512 c = _mm512_fmadd_ps(FloatsAbove256<2>(codes), scale, offset);
  const __m512 d = _mm512_fmadd_ps(FloatsAbove256<3>(codes), scale, offset);
  _mm512_store_si512(tile_rows, RoundPairs(a, b));
  _mm512_store_si512(tile_rows + kCodeVectorBytes, RoundPairs(c, d));
}

// Blocks of one panel to tiles. `w` is where the blocks and what precedes them begin.
template <int kBits, ScaleForm kForm>
void DecodePanel(const std::byte* w, int64_t n_blocks, std::byte* tiles) {
  constexpr PanelLayout kLayout = {kBits, kForm};
  constexpr bool kHalves = kForm == ScaleForm::kSuperHalves;
  const __m512 zero_code = _mm512_set1_ps(-256.0f - static_cast<float>(kLayout.zero_code()));
  __m512 super_scale = _mm512_setzero_ps(), super_offset = super_scale;
  for (int64_t b = 0; b < n_blocks; ++b, tiles += kTileBytes) {
    if constexpr (kLayout.is_super()) {
      if (b % kBlocksPerSuper == 0) {
        LoadSuper<kForm>(w, &super_scale, &super_offset);
        w += kLayout.super_bytes();
      }
    }
    __m512i c[8];
    __m512 scale, second = _mm512_setzero_ps();
    LoadCodes<kBits>(w, c);
    LoadScales<kBits, kForm>(w, super_scale, super_offset, &scale, &second);
    const __m512 offset = kLayout.is_affine() ? _mm512_fmadd_ps(scale, zero_code, second)
                                              : _mm512_mul_ps(scale, zero_code);
    const __m512 upper_scale = kHalves ? second : scale;
    const __m512 upper_offset = kHalves ? _mm512_mul_ps(second, zero_code) : offset;
    PHASOR_UNROLL
    for (int v = 0; v < 8; ++v) {
      DecodeVector(c[v], v < 4 ? scale : upper_scale, v < 4 ? offset : upper_offset,
                   tiles + 2 * v * kCodeVectorBytes);
    }
    w += kLayout.block_bytes();
  }
}

// Columns of BF16, [32 n_blocks][16 rows], to tiles: as they are, in pairs.
void DecodeBf16Panel(const std::byte* w, int64_t n_blocks, std::byte* tiles) {
  for (int64_t pair = 0; pair < 16 * n_blocks; ++pair) {
    const auto* columns = reinterpret_cast<const __m256i*>(w + pair * kCodeVectorBytes);
    const __m512i even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(columns));
    const __m512i odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(columns + 1));
    _mm512_store_si512(tiles + pair * kCodeVectorBytes,
                       _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
}

// ---- Activations -----------------------------------------------------------------------------

// Rounds 16 floats to bfloat16, halves to even, in the lower halves of lanes. NaN and infinity
// become NaN: a token that has one shows it in all its results, as with 8-bit activations.
PHASOR_INLINE __m512i RoundToBf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_sub_ps(x, x), _mm512_setzero_ps(), _CMP_EQ_OQ);
  return _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fc0), finite, _mm512_srli_epi32(rounded, 16));
}

void PackTokens(const float* x, int64_t ldx, int n_tokens, int64_t n_blocks, std::byte* group) {
  for (int t = 0; t < kTileTokens; ++t, group += 2 * kCodeBlock) {
    std::byte* out = group;
    const float* from = x + t * ldx;
    for (int64_t b = 0; b < n_blocks; ++b, out += kTileBytes, from += kCodeBlock) {
      __m256i low = _mm256_setzero_si256(), high = low;
      if (t < n_tokens) {
        low = _mm512_cvtepi32_epi16(RoundToBf16(_mm512_loadu_ps(from)));
        high = _mm512_cvtepi32_epi16(RoundToBf16(_mm512_loadu_ps(from + 16)));
      }
      _mm256_store_si256(reinterpret_cast<__m256i*>(out), low);
      _mm256_store_si256(reinterpret_cast<__m256i*>(out) + 1, high);
    }
  }
}

// ---- Products --------------------------------------------------------------------------------

TileConfig FullTiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.n_rows[i] = kTileTokens;
    config.row_bytes[i] = kCodeVectorBytes;
  }
  return config;
}

// A tile of sums: where it comes from, where it goes and what of it belongs to y.
struct SumTile {
  alignas(64) float room[kTileTokens][kPanelRows];
  const float* from;
  float* to;
  int64_t from_stride, to_stride;  // bytes
  float* y;
  int n_tokens, n_rows;
};
struct SumTiles {
  SumTile tile[4];
};

alignas(64) constexpr float kZeros[kPanelRows] = {};

// The sums of tokens [token, token + 16) and one panel. Those that are not 16 by 16 numbers of y,
// or that start from both y and a bias, are collected in the tile's own room.
void Begin(const ManyTokensTask& task, int64_t panel, int token, bool is_first, SumTile* tile) {
  const float* bias = task.bias == nullptr ? nullptr : task.bias + panel * kPanelRows;
  float* y = task.y + token * task.ldy + panel * kPanelRows;
  tile->y = y;
  tile->n_rows = static_cast<int>(std::min<int64_t>(kPanelRows, task.n_rows - panel * kPanelRows));
  tile->n_tokens = std::min(kTileTokens, task.n_tokens - token);
  const bool from_y = !is_first || task.accumulate, add_bias = is_first && bias != nullptr;
  const bool is_whole = tile->n_rows == kPanelRows && tile->n_tokens == kTileTokens;
  tile->to_stride = task.ldy * static_cast<int64_t>(sizeof(float));
  tile->to = y;
  tile->from = from_y ? y : add_bias ? bias : kZeros;
  tile->from_stride = from_y ? tile->to_stride : 0;
  if (is_whole && !(from_y && add_bias)) return;
  for (int t = 0; t < kTileTokens; ++t) {
    for (int r = 0; r < kPanelRows; ++r) {
      const bool inside = t < tile->n_tokens && r < tile->n_rows;
      tile->room[t][r] =
          (inside && from_y ? y[t * task.ldy + r] : 0.0f) + (inside && add_bias ? bias[r] : 0.0f);
    }
  }
  tile->from = tile->to = tile->room[0];
  tile->from_stride = tile->to_stride = sizeof(tile->room[0]);
}

void End(const SumTile& tile, int64_t ldy) {
  if (tile.to == tile.y) return;
  for (int t = 0; t < tile.n_tokens; ++t) {
    std::memcpy(tile.y + t * ldy, tile.room[t],
                static_cast<std::size_t>(tile.n_rows) * sizeof(float));
  }
}

PHASOR_INLINE void LoadSums(const SumTiles& sums) {
  StoreBeforeTileLoad(&sums);
  _tile_loadd(0, sums.tile[0].from, sums.tile[0].from_stride);
  _tile_loadd(1, sums.tile[1].from, sums.tile[1].from_stride);
  _tile_loadd(2, sums.tile[2].from, sums.tile[2].from_stride);
  _tile_loadd(3, sums.tile[3].from, sums.tile[3].from_stride);
}

PHASOR_INLINE void StoreSums(SumTiles* sums) {
  _tile_stored(0, sums->tile[0].to, sums->tile[0].to_stride);
  _tile_stored(1, sums->tile[1].to, sums->tile[1].to_stride);
  _tile_stored(2, sums->tile[2].to, sums->tile[2].to_stride);
  _tile_stored(3, sums->tile[3].to, sums->tile[3].to_stride);
}

// Two groups of tokens (sums 0 1, 2 3) times two panels.
PHASOR_INLINE void MultiplyTwoByTwo(const std::byte* x, int64_t group_bytes, const std::byte* w,
                                    int64_t panel_bytes, int64_t n_blocks) {
  for (int64_t b = 0; b < n_blocks; ++b, x += kTileBytes, w += kTileBytes) {
    _tile_loadd(4, x, kCodeVectorBytes);
    _tile_loadd(6, w, kCodeVectorBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + panel_bytes, kCodeVectorBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, x + group_bytes, kCodeVectorBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// One group of tokens times four panels.
PHASOR_INLINE void MultiplyOneByFour(const std::byte* x, const std::byte* w, int64_t panel_bytes,
                                     int64_t n_blocks) {
  for (int64_t b = 0; b < n_blocks; ++b, x += kTileBytes, w += kTileBytes) {
    _tile_loadd(4, x, kCodeVectorBytes);
    _tile_loadd(5, w, kCodeVectorBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, w + panel_bytes, kCodeVectorBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, w + 2 * panel_bytes, kCodeVectorBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, w + 3 * panel_bytes, kCodeVectorBytes);
    _tile_dpbf16ps(3, 4, 5);
  }
}

// Tokens from `token` on, kGroups groups of 16 of them, and the decoded panels from `panel` on,
// 4 / kGroups of them. What is beyond the last panel is multiplied and dropped.
template <int kGroups>
void MultiplyTiles(const ManyTokensTask& task, int token, int64_t panel, int64_t first_block,
                   int64_t n_blocks, const std::byte* tiles) {
  constexpr int kPanels = 4 / kGroups;
  SumTiles sums;
  const int64_t group_bytes = task.n_blocks * kTileBytes;
  const int n_panels = static_cast<int>(std::min<int64_t>(kPanels, task.n_panels() - panel));
  for (int i = 0; i < 4; ++i) {
    SumTile& tile = sums.tile[i];
    if (i % kPanels < n_panels) {
      Begin(task, panel + i % kPanels, token + i / kPanels * kTileTokens, first_block == 0, &tile);
    } else {
      tile.from = kZeros;
      tile.from_stride = 0;
      tile.to = tile.room[0];
      tile.to_stride = sizeof(tile.room[0]);
    }
  }
  const std::byte* x = task.x + token / kTileTokens * group_bytes + first_block * kTileBytes;
  LoadSums(sums);
  if constexpr (kGroups == 2) {
    MultiplyTwoByTwo(x, group_bytes, tiles, n_blocks * kTileBytes, n_blocks);
  } else {
    MultiplyOneByFour(x, tiles, n_blocks * kTileBytes, n_blocks);
  }
  StoreSums(&sums);
  StoreBeforeTileLoad(&sums);
  for (int i = 0; i < 4; ++i) {
    if (i % kPanels >= n_panels) continue;
    End(sums.tile[i], task.ldy);
  }
}

using PanelDecoder = void (*)(const std::byte* w, int64_t n_blocks, std::byte* tiles);

PanelDecoder FindDecoder(PanelLayout layout) {
  if (layout.code_bits == 0) return DecodeBf16Panel;
  return VisitLayout(layout, []<int kBits, ScaleForm kForm>() -> PanelDecoder {
    return DecodePanel<kBits, kForm>;
  });
}

void Multiply(const ManyTokensTask& task, std::byte* room) {
  const PanelDecoder decode = FindDecoder(task.layout);
  const TileConfig config = FullTiles();
  StoreBeforeTileLoad(&config);
  _tile_loadconfig(&config);
  const int64_t n_panels = task.n_panels();
  constexpr int64_t kMaxBlocks = kMaxColumns / kCodeBlock;
  const int64_t panels_at_once = kRoomTiles / std::min(task.n_blocks, kMaxBlocks) / 4 * 4;
  for (int64_t first = 0; first < n_panels; first += panels_at_once) {
    const int64_t end = std::min(n_panels, first + panels_at_once);
    for (int64_t block = 0; block < task.n_blocks; block += kMaxBlocks) {
      const int64_t n_blocks = std::min(kMaxBlocks, task.n_blocks - block);
      const int64_t decoded_bytes = n_blocks * kTileBytes;
      const int64_t before =
          task.layout.code_bits == 0 ? block * kTileBytes : task.layout.PanelBytes(block);
      for (int64_t p = first; p < end; ++p) {
        decode(task.w + p * task.panel_bytes + before, n_blocks,
               room + (p - first) * decoded_bytes);
      }
      StoreBeforeTileLoad(room);
      int token = 0;
      for (; token + kTileTokens < task.n_tokens; token += 2 * kTileTokens) {
        for (int64_t p = first; p < end; p += 2) {
          MultiplyTiles<2>(task, token, p, block, n_blocks, room + (p - first) * decoded_bytes);
        }
      }
      for (int64_t p = first; token < task.n_tokens && p < end; p += 4) {
        MultiplyTiles<1>(task, token, p, block, n_blocks, room + (p - first) * decoded_bytes);
      }
    }
  }
  _tile_release();
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {

const ManyTokensKernels& AmxManyTokensKernels() {
  static constexpr ManyTokensKernels kKernels = {
      .min_tokens = 20,
      .group_tokens = kTileTokens,
      .token_block_bytes = kTileBytes / kTileTokens,
      .room_bytes = kRoomTiles * kTileBytes,
      .pack = PackTokens,
      .multiply = Multiply,
  };
  return kKernels;
}

}  // namespace phasor
#endif  // __x86_64__
