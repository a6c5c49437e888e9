// AVX2: pshufb turns 32 codes into levels. Keys: levels widened to 16 bits, pmaddwd with 16-bit
// queries. Values: int_values_avx2.cc.
#include "kvcodec/int_kernels.h"

#if defined(__x86_64__)
#include "kvcodec/int_avx2-inl.h"
#include "kvcodec/nearest_level.h"
#include "simd/line_fetcher.h"

PHASOR_BEGIN_AVX2
namespace phasor {
namespace {

// ---- Keys ----

template <int BITS, int BOOK_BITS, int G>
void ScoreLanes(const IntScoreArgs& a, int head, int lane, int half, LineFetcher& fetcher) {
  using T = Tile<BITS>;
  const IntPageShape& shape = *a.shape;
  const int n_rows = shape.n_inner / shape.group, rows_per_block = shape.block / shape.group;
  const std::size_t row_bytes = static_cast<std::size_t>(shape.n_lanes / 16) * T::kBytes;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page) + 16 * lane + 8 * half;
  const Table<BOOK_BITS> table(*shape.levels);
  for (int b = 0; b < shape.n_blocks; ++b) {
    const int begin = b * rows_per_block;
    const int end = b + 1 == shape.n_blocks ? n_rows : begin + rows_per_block;
    const uint16_t* scale = scales + b * kPageTokens;
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12,  //
                                            0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const Selector selector = Table<BOOK_BITS>::Select(
        _mm256_shuffle_epi8(_mm256_cvtepu16_epi32(Load128(scale)), spread));
    __m256i acc[G][2];
    PHASOR_UNROLL for (int i = 0; i < G; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
    const std::byte* codes = a.page + shape.codes_at + begin * row_bytes + lane * T::kBytes;
    const int16_t* q = a.q + head * shape.n_inner + begin * shape.group;
    for (int row = begin; row < end; ++row, codes += row_bytes) {
      fetcher.Step();
      T tile;
      tile.Load(codes, half);
      PHASOR_UNROLL for (int s = 0; s < T::kSteps; ++s, q += 4) {
        __m256i level = tile.Codes(s);
        if (BITS != 8) level = table.Lookup(level, selector);
        const __m256i low = WidenLow(level), high = WidenHigh(level);
        PHASOR_UNROLL for (int i = 0; i < G; ++i) {
          const __m256i qi = Broadcast8(q + i * shape.n_inner);
          Add(_mm256_madd_epi16(low, qi), &acc[i][0]);
          Add(_mm256_madd_epi16(high, qi), &acc[i][1]);
        }
      }
    }
    const __m256 size = LoadF16(scale);
    PHASOR_UNROLL for (int i = 0; i < G; ++i) {
      float* score = a.score_GT + (head + i) * kPageTokens + 16 * lane + 8 * half;
      const __m256 x = _mm256_cvtepi32_ps(SumPairs(acc[i][0], acc[i][1]));
      const __m256 f = _mm256_mul_ps(_mm256_set1_ps(a.q_step[head + i]), size);
      _mm256_storeu_ps(
          score, b == 0 ? _mm256_mul_ps(x, f) : _mm256_fmadd_ps(x, f, _mm256_loadu_ps(score)));
    }
  }
}

template <int BITS, int BOOK_BITS, int G>
void ScoreHeads(const IntScoreArgs& a, int head, LineFetcher& fetcher) {
  for (int t = 0; t < a.n_tokens; t += 8) {
    ScoreLanes<BITS, BOOK_BITS, G>(a, head, t / 16, t / 8 % 2, fetcher);
  }
}

template <int BITS, int BOOK_BITS>
void ScoreBits(const IntScoreArgs& a) {
  const int n_rows = a.shape->n_inner / a.shape->group;
  LineFetcher fetcher(a.next, n_rows * ((a.n_tokens + 7) / 8) * ((a.g + 3) / 4));
  int head = 0;
  for (; head + 4 <= a.g; head += 4) ScoreHeads<BITS, BOOK_BITS, 4>(a, head, fetcher);
  if (a.g - head == 3) ScoreHeads<BITS, BOOK_BITS, 3>(a, head, fetcher);
  if (a.g - head == 2) ScoreHeads<BITS, BOOK_BITS, 2>(a, head, fetcher);
  if (a.g - head == 1) ScoreHeads<BITS, BOOK_BITS, 1>(a, head, fetcher);
}

void Score(const IntScoreArgs& a) {
  const int book_bits = a.shape->levels->book_bits;
  if (a.shape->bits == 3) ScoreBits<3, 2>(a);
  if (a.shape->bits == 4 && book_bits == 0) ScoreBits<4, 0>(a);
  if (a.shape->bits == 4 && book_bits == 1) ScoreBits<4, 1>(a);
  if (a.shape->bits == 8) ScoreBits<8, 0>(a);
}

// ---- Decoding ----

// Numbers of a group of 8 channels of 4 tokens from level[channel][token] bytes.
template <int BITS, int BOOK_BITS>
void DecodeValues(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const int n_lane_blocks = shape.n_lanes / 16;
  const Table<BOOK_BITS> table(*shape.levels);
  RowScales w;
  for (int b = 0; b < shape.n_blocks; ++b) {
    LoadScales<BOOK_BITS>(scales + b * kPageTokens, &w);
    const int begin = b * shape.block;
    const int end = b + 1 == shape.n_blocks ? shape.head_dim : begin + shape.block;
    for (int row = 0; row * 4 * T::kSteps < n_tokens; ++row) {
      for (int channel = begin; channel < end; channel += 8) {
        T tile;
        const int index = row * n_lane_blocks + channel / 16;
        tile.Load(page + shape.codes_at + index * T::kBytes, channel / 8 % 2);
        const __m256i m = _mm256_cmpgt_epi32(_mm256_set1_epi32(end - channel),
                                             _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        for (int s = 0; s < T::kSteps; ++s) {
          const int t = (row * T::kSteps + s) * 4;
          __m256i level = tile.Codes(s);
          if (BITS != 8) level = table.Lookup(level, w.SelectorOf(t));
          for (int i = 0; i < 4 && t + i < n_tokens; ++i) {
            const __m256i l =
                _mm256_srai_epi32(_mm256_sll_epi32(level, _mm_cvtsi32_si128(24 - 8 * i)), 24);
            const __m256 f = _mm256_set1_ps(w.scale[t + i] * static_cast<float>(w.sign[t + i]));
            float* out = x_TD + (t + i) * shape.head_dim + channel;
            const __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(l), f);
            if (end - channel >= 8) {
              _mm256_storeu_ps(out, x);
            } else {
              _mm256_maskstore_ps(out, m, x);
            }
          }
        }
      }
    }
  }
}

template <int BITS, int BOOK_BITS>
void DecodeKeys(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  using T = Tile<BITS>;
  const auto* scales = reinterpret_cast<const uint16_t*>(page);
  const int n_lane_blocks = shape.n_lanes / 16;
  const Table<BOOK_BITS> table(*shape.levels);
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12,  //
                                          0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
  for (int t = 0; t < n_tokens; t += 8) {
    const int n = n_tokens - t < 8 ? n_tokens - t : 8;
    for (int c = 0; c < shape.head_dim; c += 4) {
      const uint16_t* scale = scales + (c / shape.block) * kPageTokens + t;
      const int index = c / shape.group * n_lane_blocks + t / 16;
      T tile;
      tile.Load(page + shape.codes_at + index * T::kBytes, t / 8 % 2);
      __m256i code = tile.Codes(0);
      const int s = c % shape.group / 4;
      if (s == 1) code = tile.Codes(1);
      if (T::kSteps == 4 && s == 2) code = tile.Codes(2 % T::kSteps);
      if (T::kSteps == 4 && s == 3) code = tile.Codes(3 % T::kSteps);
      if (BITS != 8) {
        code = table.Lookup(code, Table<BOOK_BITS>::Select(_mm256_shuffle_epi8(
                                      _mm256_cvtepu16_epi32(Load128(scale)), spread)));
      }
      alignas(32) int8_t level[32];
      alignas(32) float size[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(level), code);
      _mm256_store_ps(size, LoadF16(scale));
      const int n_channels = shape.head_dim - c;
      for (int i = 0; i < n; ++i) {
        float* out = x_TD + (t + i) * shape.head_dim + c;
        int32_t four;
        __builtin_memcpy(&four, level + 4 * i, sizeof(four));
        const __m128 x = _mm_mul_ps(_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four))),
                                    _mm_set1_ps(size[i]));
        if (n_channels >= 4) {
          _mm_storeu_ps(out, x);
          continue;
        }
        alignas(16) float last[4];
        _mm_store_ps(last, x);
        for (int j = 0; j < n_channels; ++j) out[j] = last[j];
      }
    }
  }
}

template <int BITS, int BOOK_BITS>
void DecodeBits(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const bool key = shape.role == KvRole::kKey;
  (key ? DecodeKeys<BITS, BOOK_BITS> : DecodeValues<BITS, BOOK_BITS>)(shape, page, n_tokens, x_TD);
}

void Decode(const IntPageShape& shape, const std::byte* page, int n_tokens, float* x_TD) {
  const int book_bits = shape.levels->book_bits;
  if (shape.bits == 3) DecodeBits<3, 2>(shape, page, n_tokens, x_TD);
  if (shape.bits == 4 && book_bits == 0) DecodeBits<4, 0>(shape, page, n_tokens, x_TD);
  if (shape.bits == 4 && book_bits == 1) DecodeBits<4, 1>(shape, page, n_tokens, x_TD);
  if (shape.bits == 8) DecodeBits<8, 0>(shape, page, n_tokens, x_TD);
}

// ---- Search ----

// NearestTables of one book, for whole levels.
struct WholeLevels {
  __m256i code, first, second, level, entry;
  __m128i shift;  // of the place as a number of 0 .. 127 to its bucket
  __m256i inside;
};
PHASOR_INLINE __m256i BothHalves(const void* p) { return _mm256_broadcastsi128_si256(Load128(p)); }
// Of the quarters from which a code is one more, the first whole level. 127 becomes 32, which is
// not inside a bucket either.
PHASOR_INLINE __m256i FirstWhole(const void* p) {
  const __m256i up = _mm256_add_epi8(BothHalves(p), _mm256_set1_epi8(3));
  return _mm256_and_si256(_mm256_srli_epi16(up, 2), _mm256_set1_epi8(63));
}
PHASOR_INLINE WholeLevels LoadWholeLevels(const NearestTables& t, int book) {
  const int table = t.TableOf(book);
  return {BothHalves(t.code[table]),
          FirstWhole(t.first[table]),
          FirstWhole(t.second[table]),
          BothHalves(t.level[table]),
          _mm256_set1_epi8(static_cast<int8_t>(t.EntryOf(book))),
          _mm_cvtsi32_si128(t.shift - 2),
          _mm256_set1_epi8(static_cast<int8_t>((1 << (t.shift - 2)) - 1))};
}

// The levels nearest to 32 places -64 .. 63.
PHASOR_INLINE __m256i Nearest(const WholeLevels& w, __m256i place) {
  const __m256i up = _mm256_add_epi8(place, _mm256_set1_epi8(64));
  const __m256i entry = _mm256_or_si256(
      _mm256_and_si256(_mm256_srl_epi16(up, w.shift), _mm256_set1_epi8(15)), w.entry);
  const __m256i inside = _mm256_and_si256(up, w.inside);
  // A comparison is 0 or -1: two more, less one for each that is not reached.
  const __m256i below =
      _mm256_add_epi8(_mm256_cmpgt_epi8(_mm256_shuffle_epi8(w.first, entry), inside),
                      _mm256_cmpgt_epi8(_mm256_shuffle_epi8(w.second, entry), inside));
  const __m256i code = _mm256_add_epi8(_mm256_shuffle_epi8(w.code, entry), below);
  return _mm256_shuffle_epi8(w.level,
                             _mm256_or_si256(_mm256_add_epi8(code, _mm256_set1_epi8(2)), w.entry));
}

// Eight rows from x_DT on.
void SearchRows(const IntSearchArgs& a, const WholeLevels* levels, int first_row) {
  const int n_padded = (4 - a.n % 4) % 4;  // zeros, each counted with its nearest level
  // Packing leaves 4 rows of each of 4 channels in 16 bytes; 4 channels of a row are to be a dword.
  const __m256i by_row = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                          0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int step = 0; step < kSearchSteps; ++step) {
    const __m256 inverse = _mm256_loadu_ps(a.inverse[step] + first_row);
    __m256i sum[kMaxBooks][2];
    for (int b = 0; b < a.n_books; ++b) sum[b][0] = sum[b][1] = _mm256_setzero_si256();
    for (int c = 0; c < a.n; c += 4) {
      __m256i x[4];
      PHASOR_UNROLL for (int i = 0; i < 4; ++i) {
        x[i] = _mm256_cvtps_epi32(
            _mm256_mul_ps(_mm256_loadu_ps(a.x_DT + 16 * (c + i) + first_row), inverse));
      }
      __m256i y[2], place[2];
      y[0] = _mm256_shuffle_epi8(
          _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3])),
          by_row);
      y[1] = _mm256_sub_epi8(_mm256_setzero_si256(), y[0]);
      PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
        place[v] =
            _mm256_max_epi8(_mm256_min_epi8(y[v], _mm256_set1_epi8(63)), _mm256_set1_epi8(-64));
      }
      for (int b = 0; b < a.n_books; ++b) {
        PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
          const __m256i e = _mm256_abs_epi8(_mm256_sub_epi8(y[v], Nearest(levels[b], place[v])));
          sum[b][v] = _mm256_add_epi32(
              sum[b][v], _mm256_madd_epi16(_mm256_maddubs_epi16(e, e), _mm256_set1_epi16(1)));
        }
      }
    }
    for (int b = 0; b < a.n_books; ++b) {
      const __m256i padding = _mm256_set1_epi32(n_padded * a.nearest[b][0] * a.nearest[b][0]);
      PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(a.error[step][2 * b + v] + first_row),
                            _mm256_sub_epi32(sum[b][v], padding));
      }
    }
  }
}

void Search(const IntSearchArgs& a) {
  WholeLevels levels[kMaxBooks];
  for (int b = 0; b < a.n_books; ++b) levels[b] = LoadWholeLevels(*a.quarters, b);
  for (int first_row = 0; first_row < 16; first_row += 8) SearchRows(a, levels, first_row);
}

constexpr IntKernels kSet = {Score, AccumulateIntAvx2, Decode, Search};

}  // namespace
}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const IntKernels* IntKernelsAvx2() { return &kSet; }
}  // namespace phasor
#else
namespace phasor {
const IntKernels* IntKernelsAvx2() { return nullptr; }
}  // namespace phasor
#endif
