// Prefill attention on 16-bit integers: what one page looks like and the products over it.
//
// Keys and queries are scaled to a Euclidean norm of 32767, so that by Cauchy-Schwarz no sum of
// products can leave 32 bits, and rounded to int16; the rounding is 2^-15 of the norm, finer than
// f16. Softmax weights are taken against the page's own maximum as integers up to 2^13, values have
// 11 bits and a scale per channel: 128 * 2^13 * 2047 < 2^31. A running maximum joins the pages
// (flash attention; Dao et al. 2022, 2205.14135). One multiply-add instruction of 32 products
// (vpdpwssd) does the work, twice the rate of float and the same as bf16, which would lose more.
#pragma once

#include <cstdint>

#include "base/aligned.h"
#include "contracts/kv_codec.h"

namespace phasor {

// Rows are worked on in tiles of this many, and query blocks are padded to a multiple with zeros.
inline constexpr int kInt16TileRows = 6;
// Rows per call of AttendInt16Rows.
inline constexpr int kInt16GroupRows = 4 * kInt16TileRows;
// Token ranges are rounded out to multiples of this.
inline constexpr int kInt16TokenStep = 32;

// Head sizes are padded with zeros to whole vectors.
inline int Int16HeadDim(int head_dim) { return (head_dim + 15) / 16 * 16; }

// One page, ready for the products; an int32 holds two int16. P = Int16HeadDim(head_dim).
struct Int16Page {
  AlignedBuffer<int32_t> keys;       // [P / 2][kPageTokens]: pairs of dimensions
  AlignedBuffer<float> key_scale;    // [kPageTokens]
  AlignedBuffer<int32_t> values;     // [kPageTokens / 2][P]: pairs of tokens, in packing order
  AlignedBuffer<float> value_scale;  // [P]
  int head_dim = 0;
};

// Queries of one block with their running results. Rows are padded to kInt16TileRows.
struct Int16Block {
  AlignedBuffer<int32_t> q;      // [rows, P / 2]: two int16 each
  AlignedBuffer<float> q_scale;  // [rows], log2(e) included: scores are in powers of two
  AlignedBuffer<float> out;      // [rows, P], not yet divided by `sum`
  AlignedBuffer<float> max;      // [rows], in powers of two
  AlignedBuffer<float> sum;      // [rows]
  int head_dim = 0, n_rows = 0;  // n_rows without padding
};

// Whether this process may call what follows: AVX-512 level.
bool HasInt16Attention();

// Makes room for n_rows queries and clears the running results; SetInt16Queries follows.
void StartInt16Block(int n_rows, int head_dim, Int16Block* block);
// q_RD: [n_rows, head_dim], softmax scale included. Running results stay: queries may be turned
// between pages.
void SetInt16Queries(const float* q_RD, Int16Block* block);
// k_TD, v_TD: [n_tokens, head_dim]; tokens beyond are zeros.
void PackInt16Page(const float* k_TD, const float* v_TD, int n_tokens, int head_dim,
                   Int16Page* page);

// Adds a page to rows [first_row, first_row + n_rows) of the block; first_row is a multiple of
// kInt16TileRows and n_rows at most kInt16GroupRows. Row i sees tokens [begin[i], end[i]), all of
// which lie in [first_token, last_token), multiples of kInt16TokenStep. Null `begin`: all rows see
// all tokens of that range.
struct Int16Span {
  int first_row, n_rows;
  int first_token, last_token;
  const int* begin;
  const int* end;
};
void AttendInt16Rows(const Int16Page& page, const Int16Span& span, Int16Block* block);

// out_RD: [n_rows, head_dim], divided by the sums; zeros where a row saw no token.
void FinishInt16Block(const Int16Block& block, float* out_RD);

}  // namespace phasor
