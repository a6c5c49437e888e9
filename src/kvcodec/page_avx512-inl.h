// AVX-512 pieces that the kernels of several paged codecs share: packed codes (packed_field.h) and
// the turn from rows of a page to columns with tokens in lanes. Include only from kernel files.
#pragma once

#include <algorithm>

#include "base/aligned.h"
#include "kvcodec/packed_field.h"
#include "kvcodec/polar_grid.h"
#include "simd/avx512.h"
#include "simd/target.h"

// GCC 12 takes the deliberately undefined register inside its own intrinsics for a mistake
// (gcc.gnu.org bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace phasor {
namespace {

constexpr int kRowFloats = kPageTokens;

// [D][128] floats: one page with tokens in lanes.
float* TileScratch(int head_dim) {
  static thread_local AlignedBuffer<float> tile;
  tile.Resize(static_cast<std::size_t>((head_dim + 15) / 16 * 16) * kRowFloats);
  return tile.data();
}

// Codes of a run: pointers to the parts of its first slot, order of kFieldParts.
struct RunCodes {
  const std::byte* part[4];
};

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

inline __m512 Set(float x) { return _mm512_set1_ps(x); }
inline __m512i Iota() {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Codes of tokens 16 i .. 16 i + 15 of slot s of a run; bits from kBits up are junk. Rotating
// instead of shifting brings a part to its place in the code in one step.
template <int kBits>
inline __m512i Code16(const RunCodes& codes, int s, int i) {
  constexpr bool k8 = (kBits & 8) != 0, k4 = (kBits & 4) != 0, k2 = (kBits & 2) != 0;
  constexpr bool k1 = (kBits & 1) != 0;
  constexpr int at4 = k8 ? 8 : 0, at2 = at4 + (k4 ? 4 : 0), at1 = at2 + (k2 ? 2 : 0);
  __m512i code = _mm512_setzero_si512();
  if constexpr (k8) {
    const __m512i word = _mm512_loadu_si512(codes.part[0] + 128 * s + 64 * (i / 4));
    code = _mm512_srlv_epi32(word, _mm512_set1_epi32(8 * (i % 4)));
  }
  if constexpr (k4) {
    const __m512i word = _mm512_loadu_si512(codes.part[1] + 64 * s);
    const __m512i part = _mm512_rorv_epi32(word, _mm512_set1_epi32((4 * i - at4) & 31));
    code = at4 == 0
               ? part
               : _mm512_ternarylogic_epi32(_mm512_set1_epi32((1 << at4) - 1), code, part, 0xca);
  }
  if constexpr (k2) {
    const __m512i word = _mm512_broadcast_i32x8(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes.part[2] + 32 * s)));
    const __m512i lane = _mm512_slli_epi32(_mm512_srli_epi32(Iota(), 3), 1);
    const __m512i count = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * i - at2));
    const __m512i part = _mm512_rorv_epi32(word, count);
    code = at2 == 0
               ? part
               : _mm512_ternarylogic_epi32(_mm512_set1_epi32((1 << at2) - 1), code, part, 0xca);
  }
  if constexpr (k1) {
    const __m512i word = _mm512_broadcast_i32x4(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes.part[3] + 16 * s)));
    const __m512i lane = _mm512_srli_epi32(Iota(), 2);
    const __m512i count = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * i - at1));
    const __m512i part = _mm512_rorv_epi32(word, count);
    code = at1 == 0
               ? part
               : _mm512_ternarylogic_epi32(_mm512_set1_epi32((1 << at1) - 1), code, part, 0xca);
  }
  return code;
}

// As PackField, from 8 vectors of 16 codes.
inline void StoreCodes(const __m512i code[8], int n_bits, const PartOffsets& parts,
                       std::byte* page) {
  int at = 0;
  for (int p = 0; p < 4; ++p) {
    const int bits = kFieldParts[p];
    if ((n_bits & bits) == 0) continue;
    const __m128i from = _mm_cvtsi32_si128(at);
    const __m512i mask = _mm512_set1_epi32((1 << bits) - 1);
    __m512i part[8];
    PHASOR_UNROLL for (int i = 0; i < 8; ++i) {
      part[i] = _mm512_and_si512(_mm512_srl_epi32(code[i], from), mask);
    }
    std::byte* out = page + parts.at[p];
    at += bits;
    if (bits == 8) {
      PHASOR_UNROLL for (int w = 0; w < 2; ++w) {
        __m512i word = part[4 * w];
        PHASOR_UNROLL for (int i = 1; i < 4; ++i) {
          word = _mm512_or_si512(word, _mm512_slli_epi32(part[4 * w + i], 8 * i));
        }
        _mm512_storeu_si512(out + 64 * w, word);
      }
      continue;
    }
    __m512i word = part[0];
    PHASOR_UNROLL for (int i = 1; i < 8; ++i) {
      word = _mm512_or_si512(word, _mm512_slli_epi32(part[i], 4 * i));
    }
    if (bits == 4) {
      _mm512_storeu_si512(out, word);
    } else if (bits == 2) {
      const __m256i low = _mm512_castsi512_si256(word), high = _mm512_extracti32x8_epi32(word, 1);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                          _mm256_or_si256(low, _mm256_slli_epi32(high, 2)));
    } else {
      const __m128i a = _mm512_extracti32x4_epi32(word, 0), b = _mm512_extracti32x4_epi32(word, 1);
      const __m128i c = _mm512_extracti32x4_epi32(word, 2), d = _mm512_extracti32x4_epi32(word, 3);
      const __m128i ab = _mm_or_si128(a, _mm_slli_epi32(b, 1));
      const __m128i cd = _mm_or_si128(_mm_slli_epi32(c, 2), _mm_slli_epi32(d, 3));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_or_si128(ab, cd));
    }
  }
}

// Rows in, columns out.
inline void Transpose16(__m512 r[16]) {
  __m512 t[16];
  PHASOR_UNROLL for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  PHASOR_UNROLL for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
    const __m512d c = _mm512_castps_pd(t[i + 2]), d = _mm512_castps_pd(t[i + 3]);
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// tile[D][128] -> x_TD.
inline void TileToRows(const float* tile, int head_dim, int n_tokens, float* x_TD) {
  for (int t0 = 0; t0 < n_tokens; t0 += 16) {
    for (int d0 = 0; d0 < head_dim; d0 += 16) {
      const __mmask16 mask = static_cast<__mmask16>((1u << std::min(head_dim - d0, 16)) - 1);
      __m512 r[16];
      PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
        r[i] = _mm512_load_ps(tile + (d0 + i) * kRowFloats + t0);
      }
      Transpose16(r);
      const int rows = std::min(n_tokens - t0, 16);
      float* out = x_TD + static_cast<std::ptrdiff_t>(t0) * head_dim + d0;
      if (rows == 16) {
        PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
          _mm512_mask_storeu_ps(out + static_cast<std::ptrdiff_t>(i) * head_dim, mask, r[i]);
        }
      } else {
        alignas(64) float column[16][16];
        PHASOR_UNROLL for (int i = 0; i < 16; ++i) _mm512_store_ps(column[i], r[i]);
        for (int i = 0; i < rows; ++i) {
          _mm512_mask_storeu_ps(out + static_cast<std::ptrdiff_t>(i) * head_dim, mask,
                                _mm512_load_ps(column[i]));
        }
      }
    }
  }
}

// x_TD -> tile[D][128], sanitized; missing tokens repeat the last one.
inline void RowsToTile(const float* x_TD, int head_dim, int n_tokens, float* tile) {
  for (int t0 = 0; t0 < kPageTokens; t0 += 16) {
    for (int d0 = 0; d0 < head_dim; d0 += 16) {
      const __mmask16 mask = static_cast<__mmask16>((1u << std::min(head_dim - d0, 16)) - 1);
      __m512 r[16];
      PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
        const std::ptrdiff_t row = std::min(t0 + i, n_tokens - 1);
        const __m512 x = _mm512_maskz_loadu_ps(mask, x_TD + row * head_dim + d0);
        const __mmask16 number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
        r[i] = _mm512_maskz_max_ps(number, _mm512_min_ps(x, Set(kPolarInfinity)),
                                   Set(-kPolarInfinity));
      }
      Transpose16(r);
      PHASOR_UNROLL for (int i = 0; i < 16; ++i) {
        _mm512_store_ps(tile + (d0 + i) * kRowFloats + t0, r[i]);
      }
    }
  }
}

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET
