// searched_rows.h, compiled once per CPU level. No include guard: see searched_rows.cc.

#include "kvcodec/nearest_level-inl.h"

// f16 patterns of finite numbers x >= 0, to nearest, halves to even.
PHASOR_INLINE VI HalfPattern(VF x) {
  const VI bits = reinterpret_cast<VI>(x);
  // Below 2^-14: adding 0.5 aligns the wanted bits with the end of the mantissa.
  const VI small = reinterpret_cast<VI>(x + 0.5f) - 0x3f000000;
  const VI rounded = (bits + 0xfff + ((bits >> 13) & 1) - 0x38000000) >> 13;
  const VI pattern = bits < 0x38800000 ? small : rounded;
  return bits >= 0x47800000 ? VI{} + 0x7c00 : pattern;
}
// The number of a pattern of 0 .. 0x7bff.
PHASOR_INLINE VF HalfValue(VI pattern) {
  const VF small = __builtin_convertvector(pattern, VF) * 0x1p-24f;
  return pattern < 0x400 ? small : reinterpret_cast<VF>((pattern << 13) + (112 << 23));
}
PHASOR_INLINE VF Magnitude(VF x) { return x < 0.0f ? -x : x; }

// The patterns nearest to d >= 0 whose low bits name the book.
PHASOR_INLINE VI PatternOf(VF d, VI book, int book_bits) {
  const int step = 1 << book_bits;
  const VI base = (HalfPattern(d) & ~(step - 1)) | book;
  VI best = base;
  VF error = Magnitude(HalfValue(base) - d);
  PHASOR_UNROLL for (int side = 0; side < 2; ++side) {
    const VI candidate = side == 0 ? base - step : base + step;
    const VF e = Magnitude(HalfValue(candidate) - d);
    const VI better = (e < error) & (candidate >= 0) & (candidate < 0x7c00);
    best = better ? candidate : best;
    error = better ? e : error;
  }
  return best;
}

PHASOR_INLINE VI LoadPatterns(const uint16_t* x) {
  int32_t wide[kLanes];
  for (int i = 0; i < kLanes; ++i) wide[i] = x[i];
  return *reinterpret_cast<const VI*>(wide);
}
PHASOR_INLINE void StorePatterns(VI v, uint16_t* x) {
  int32_t wide[kLanes];
  *reinterpret_cast<VI*>(wide) = v;
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<uint16_t>(wide[i]);
}

// Nearest levels are shorter than what they stand for, by their error's share of the square. A sum
// of values that are all too short is too short itself, so the step makes up for that; the codes
// stay.
void Lengthen(const IntLevels& levels, const float* square, const float* product, uint16_t* scale) {
  constexpr float kMost = 1.25f;  // beyond that a row is next to nothing, or its scale is coarse
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    const VI old = LoadPatterns(scale + p * kLanes);
    const VF along = Magnitude(Load(product + p * kLanes));
    const VF longer = along > 0.0f ? Load(square + p * kLanes) / along : VF{};
    const VF fitted = HalfValue(old & 0x7fff);
    const VI keep = (longer * kMost <= fitted) | (longer >= kMost * fitted);
    const VI book = old & ((1 << levels.book_bits) - 1);
    const VI pattern = PatternOf(longer, book, levels.book_bits) | (old & 0x8000);
    StorePatterns(keep ? old : pattern, scale + p * kLanes);
  }
}

// What the nearest levels of 16 rows depend on.
struct RowLanes {
  VF inverse[kParts];  // quarters of a level per unit
  LaneBooks books;
};
PHASOR_INLINE RowLanes LanesOf(const NearestTables& t, const VF (&d)[kParts],
                               const VI (&book)[kParts]) {
  RowLanes lanes;
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    lanes.inverse[p] = d[p] == 0.0f ? VF{} : 4.0f / d[p];
  }
  lanes.books = BooksOf(t, ToBytes(book));
  return lanes;
}

// Quarters and nearest levels of a channel.
PHASOR_INLINE B16 NearestOf(const NearestTables& t, const RowLanes& lanes, const VF (&x)[kParts],
                            VF (&quarters)[kParts], VF (&level)[kParts]) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) quarters[p] = ToQuarters(x[p], lanes.inverse[p]);
  return NearestCodes(t, lanes.books, quarters, level);
}

PHASOR_INLINE void LoadChannel(const float* x_DT, int c, VF (&x)[kParts]) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) x[p] = Load(x_DT + 16L * c + p * kLanes);
}

// Sizes, signs and books of the least errors. Of equal ones the first.
PHASOR_INLINE void ChooseSearched(const int32_t (*error)[2 * kMaxBooks][16], const float* reach,
                                  int n_books, const VF (&top)[kParts], VF (&d)[kParts],
                                  VI (&book)[kParts]) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    VF best = VF{} + 3.4e38f, best_reach = {};
    VI choice = {};
    for (int v = 0; v < 2 * n_books; ++v) {
      VF least = VF{} + 3e38f, reach_of_least = {};
      for (int i = 0; i < kSearchSteps; ++i) {
        const VI count = *reinterpret_cast<const VI*>(error[i][v] + p * kLanes);
        const VF e = __builtin_convertvector(count, VF) * (reach[i] * reach[i]);
        reach_of_least = e < least ? VF{} + reach[i] : reach_of_least;
        least = e < least ? e : least;
      }
      best_reach = least < best ? reach_of_least : best_reach;
      choice = least < best ? VI{} + v : choice;
      best = least < best ? least : best;
    }
    const float end = kMaxLevel;
    d[p] = top[p] * best_reach / ((choice & 1) != 0 ? VF{} - end : VF{} + end);
    book[p] = choice >> 1;
  }
}

void Quantize(const SearchedStrip& s, const NearestTables& t, const int8_t (*nearest)[128],
              const float* reach) {
  // Below this, f16 cannot tell the scale from zero.
  constexpr float kSmallest = kMaxLevel * 0x1p-25f, kEnd = kMaxLevel;
  const int n_books = 1 << s.levels->book_bits;
  VF top[kParts] = {}, x[kParts], quarters[kParts], level[kParts];
  for (int c = 0; c < s.head_dim; ++c) {
    LoadChannel(s.x_DT, c, x);
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      const VF size = Magnitude(x[p]);
      top[p] = size > top[p] ? size : top[p];
    }
  }
  VI live[kParts];
  alignas(64) float inverse[kSearchSteps][16];
  alignas(64) int32_t error[kSearchSteps][2 * kMaxBooks][16];
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    live[p] = top[p] >= kSmallest;
    top[p] = live[p] ? top[p] : VF{} + 1.0f;
    for (int i = 0; i < kSearchSteps; ++i) {
      Store(kEnd / (top[p] * reach[i]), inverse[i] + p * kLanes);
    }
  }
  GetIntKernels(ActiveCpuLevel())
      .search({s.x_DT, s.head_dim, n_books, nearest, &t, inverse, error});
  VF d[kParts];
  VI book[kParts];
  ChooseSearched(error, reach, n_books, top, d, book);

  // The size that fits these levels best. Sums of whole numbers, exact.
  VF product[kParts] = {}, square[kParts] = {};
  const RowLanes found = LanesOf(t, d, book);
  for (int c = 0; c < s.head_dim; ++c) {
    LoadChannel(s.x_DT, c, x);
    NearestOf(t, found, x, quarters, level);
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      product[p] += quarters[p] * level[p];
      square[p] += level[p] * level[p];
    }
  }
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    const VI fits = (product[p] > 0.0f) & (square[p] > 0.0f);
    d[p] = fits ? d[p] * (product[p] / (4.0f * square[p])) : d[p];
    const VI pattern = PatternOf(Magnitude(d[p]), book[p], t.book_bits);
    const VI sign = d[p] < 0.0f ? VI{} + 0x8000 : VI{};
    StorePatterns(live[p] ? pattern | sign : VI{}, s.scale + p * kLanes);
  }
  if (s.codes_DT == nullptr) return;

  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    const VI pattern = LoadPatterns(s.scale + p * kLanes);
    const VF size = HalfValue(pattern & 0x7fff);
    d[p] = pattern >= 0x8000 ? -size : size;
    book[p] = pattern & (n_books - 1);
    product[p] = square[p] = VF{};
  }
  const RowLanes stored = LanesOf(t, d, book);
  for (int c = 0; c < s.head_dim; ++c) {
    LoadChannel(s.x_DT, c, x);
    *reinterpret_cast<B16*>(s.codes_DT + 16L * c) = NearestOf(t, stored, x, quarters, level);
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      product[p] += x[p] * level[p];
      square[p] += x[p] * x[p];
    }
  }
  alignas(64) float squares[16], products[16];
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    Store(square[p], squares + p * kLanes);
    Store(product[p], products + p * kLanes);
  }
  Lengthen(*s.levels, squares, products, s.scale);
}

// Four channels of four rows, from `from` with `stride` floats a row, to lanes of four columns.
PHASOR_INLINE V4 MakeFinite(V4 x) {
  constexpr float kMostF16 = 65504.0f;
  const V4 most = V4{} + kMostF16;
  x = x != x ? V4{} : x;
  x = x > most ? most : x;
  return x < -most ? -most : x;
}
PHASOR_INLINE void TransposeFour(const float* from, long stride, float* to) {
  V4 row[4], low[2], high[2];
  PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
    row[i] = MakeFinite(*reinterpret_cast<const V4*>(from + i * stride));
  }
  PHASOR_UNROLL for (int i = 0; i < 2; ++i) {
    low[i] = __builtin_shufflevector(row[i], row[2 + i], 0, 4, 1, 5);
    high[i] = __builtin_shufflevector(row[i], row[2 + i], 2, 6, 3, 7);
  }
  *reinterpret_cast<V4*>(to) = __builtin_shufflevector(low[0], low[1], 0, 4, 1, 5);
  *reinterpret_cast<V4*>(to + 16) = __builtin_shufflevector(low[0], low[1], 2, 6, 3, 7);
  *reinterpret_cast<V4*>(to + 32) = __builtin_shufflevector(high[0], high[1], 0, 4, 1, 5);
  *reinterpret_cast<V4*>(to + 48) = __builtin_shufflevector(high[0], high[1], 2, 6, 3, 7);
}
void Columns(const float* x_TD, int n, int head_dim, int padded, float* x_DT) {
  for (int t = 0; t < 16; t += 4) {
    const float* from = x_TD + static_cast<long>(t) * head_dim;
    for (int d = 0; d < padded; d += 4) {
      float* to = x_DT + 16L * d + t;
      if (t + 4 <= n && d + 4 <= head_dim) {
        TransposeFour(from + d, head_dim, to);
        continue;
      }
      float block[16] = {};
      for (int i = 0; i < 4 && t + i < n; ++i) {
        for (int j = 0; j < 4 && d + j < head_dim; ++j) {
          block[4 * i + j] = from[static_cast<long>(i) * head_dim + d + j];
        }
      }
      TransposeFour(block, 4, to);
    }
  }
}
