// Polar kernels for AVX-512 in float: lanes are tokens, tables are registers of 16 floats.
// Decoding, and scores of pages for which integers are too coarse (polar_score_avx512.cc).
#if defined(__x86_64__)

#include <algorithm>
#include <array>

#include "kvcodec/page_avx512-inl.h"
#include "kvcodec/polar_kernels.h"
#include "kvcodec/polar_plan.h"
#include "simd/avx512.h"
#include "simd/target.h"

namespace phasor {
namespace {

constexpr int kMaxChunkHeads = 4;  // query heads scored together: 2 x 4 accumulators
// Everything a run of slots needs while a page is read.
struct alignas(64) RunScratch {
  float phi_start[kMaxRunSlots], phi_step[kMaxRunSlots];
  float r_first[kMaxRunSlots], r_step[kMaxRunSlots];  // r_first: middle of radius cell 0
  // kOneVector: cos, sin. kTwoVectors: cos, cos, sin, sin. kProduct: coarse cos, sin, fine cos,
  // sin.
  float level[kMaxRunSlots][4][16];
  float radius[kMaxRunSlots][16];  // repeated where r_bits < 4, so that stray bits do not matter
  float table[kMaxRunSlots][kMaxChunkHeads][32];
};

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

// As SinCosTurns.
inline void SinCos16(__m512 turns, __m512* sine, __m512* cosine) {
  const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(turns, Set(4.0f)));
  const __m512 x = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(q), Set(0.25f), turns);
  const __m512 x2 = _mm512_mul_ps(x, x);
  __m512 s = Set(kSinTurns[3]), c = Set(kCosTurns[4]);
  PHASOR_UNROLL for (int i = 2; i >= 0; --i) s = _mm512_fmadd_ps(s, x2, Set(kSinTurns[i]));
  PHASOR_UNROLL for (int i = 3; i >= 0; --i) c = _mm512_fmadd_ps(c, x2, Set(kCosTurns[i]));
  s = _mm512_mul_ps(s, x);
  const __mmask16 swap = _mm512_test_epi32_mask(q, _mm512_set1_epi32(1));
  const __m512 s2 = _mm512_mask_mov_ps(s, swap, c), c2 = _mm512_mask_mov_ps(c, swap, s);
  const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  const __m512i s_sign = _mm512_and_si512(_mm512_slli_epi32(q, 30), sign);
  const __m512i c_sign =
      _mm512_and_si512(_mm512_slli_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(1)), 30), sign);
  *sine = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(s2), s_sign));
  *cosine = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(c2), c_sign));
}

// Radii of 16 codes.
template <int kBits, bool kWide>
inline __m512 Radius16(const RunScratch& run, int s, __m512i a_bits, __m512i code) {
  if constexpr (kWide) {
    const __m512i clean = _mm512_and_si512(code, _mm512_set1_epi32((1 << kBits) - 1));
    const __m512 rho = _mm512_cvtepi32_ps(_mm512_srlv_epi32(clean, a_bits));
    return _mm512_fmadd_ps(rho, Set(run.r_step[s]), Set(run.r_first[s]));
  }
  return _mm512_permutexvar_ps(_mm512_srlv_epi32(code, a_bits), _mm512_load_ps(run.radius[s]));
}

// Cosine and sine of 16 codes.
template <AngleTable kTable>
inline void Angle16(const RunScratch& run, int s, __m512i code, __m512* cosine, __m512* sine) {
  const __m512 t0 = _mm512_load_ps(run.level[s][0]), t1 = _mm512_load_ps(run.level[s][1]);
  if constexpr (kTable == AngleTable::kOneVector) {
    *cosine = _mm512_permutexvar_ps(code, t0);
    *sine = _mm512_permutexvar_ps(code, t1);
  } else {
    const __m512 t2 = _mm512_load_ps(run.level[s][2]), t3 = _mm512_load_ps(run.level[s][3]);
    if constexpr (kTable == AngleTable::kTwoVectors) {
      *cosine = _mm512_permutex2var_ps(t0, code, t1);
      *sine = _mm512_permutex2var_ps(t2, code, t3);
    } else {
      const __m512i high = _mm512_srli_epi32(code, 4);
      const __m512 ch = _mm512_permutexvar_ps(high, t0), sh = _mm512_permutexvar_ps(high, t1);
      const __m512 cl = _mm512_permutexvar_ps(code, t2), sl = _mm512_permutexvar_ps(code, t3);
      *cosine = _mm512_fmsub_ps(ch, cl, _mm512_mul_ps(sh, sl));
      *sine = _mm512_fmadd_ps(sh, cl, _mm512_mul_ps(ch, sl));
    }
  }
}

// Reads the grids of a run, 16 at a time.
void LoadGrids(const PolarLayout& layout, const PolarRun& run, const std::byte* page,
               RunScratch* out) {
  const __m512 half = Set(0.5f);
  for (int s = 0; s < run.count; s += 16) {
    const int left = std::min(run.count - s, 16);
    const __mmask16 mask = static_cast<__mmask16>((1u << left) - 1);
    __m256i field[4];
    PHASOR_UNROLL for (int f = 0; f < 4; ++f) {
      field[f] = _mm256_maskz_loadu_epi16(mask, page + 2 * (f * layout.n_slots + run.first + s));
    }
    const __m512i a_bits = _mm512_loadu_si512(layout.a_bits_S.data() + run.first + s);
    const __m512 start = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(field[0]));
    const __m512 range = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(field[1]));
    // 2^(-16 - a_bits) from its exponent.
    const __m512i exponent = _mm512_sub_epi32(_mm512_set1_epi32(127 - 16), a_bits);
    const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
    const __m512 r_min = _mm512_cvtph_ps(field[2]), r_step = _mm512_cvtph_ps(field[3]);
    _mm512_store_ps(out->phi_start + s, _mm512_mul_ps(start, Set(0x1p-16f)));
    _mm512_store_ps(out->phi_step + s, _mm512_mul_ps(range, scale));
    _mm512_store_ps(out->r_step + s, r_step);
    _mm512_store_ps(out->r_first + s, _mm512_fmadd_ps(r_step, half, r_min));
  }
}

// Reads the grids of a run and fills its level and radius tables.
void BuildLevels(const PolarLayout& layout, const PolarRun& run, const std::byte* page,
                 RunScratch* out) {
  LoadGrids(layout, run, page, out);
  const __m512i iota = Iota();
  const __m512 half = Set(0.5f);
  for (int s = 0; s < run.count; ++s) {
    const int a_bits = layout.a_bits_S[run.first + s], r_bits = layout.r_bits_S[run.first + s];
    const __m512 start = Set(out->phi_start[s]), step = Set(out->phi_step[s]);
    float(*level)[16] = out->level[s];
    __m512 sine, cosine;
    if (run.angle_table == AngleTable::kOneVector) {
      const __m512i k = _mm512_and_si512(iota, _mm512_set1_epi32((1 << a_bits) - 1));
      const __m512 middle = _mm512_add_ps(_mm512_cvtepi32_ps(k), half);
      SinCos16(_mm512_fmadd_ps(middle, step, start), &sine, &cosine);
      _mm512_store_ps(level[0], cosine);
      _mm512_store_ps(level[1], sine);
    } else if (run.angle_table == AngleTable::kTwoVectors) {
      const __m512 middle = _mm512_add_ps(_mm512_cvtepi32_ps(iota), half);
      SinCos16(_mm512_fmadd_ps(middle, step, start), &sine, &cosine);
      _mm512_store_ps(level[0], cosine);
      _mm512_store_ps(level[2], sine);
      const __m512 upper = _mm512_add_ps(middle, Set(16.0f));
      SinCos16(_mm512_fmadd_ps(upper, step, start), &sine, &cosine);
      _mm512_store_ps(level[1], cosine);
      _mm512_store_ps(level[3], sine);
    } else {
      const __m512i k = _mm512_and_si512(iota, _mm512_set1_epi32((1 << (a_bits - 4)) - 1));
      const __m512 coarse = _mm512_mul_ps(_mm512_cvtepi32_ps(k), Set(16.0f));
      SinCos16(_mm512_fmadd_ps(coarse, step, start), &sine, &cosine);
      _mm512_store_ps(level[0], cosine);
      _mm512_store_ps(level[1], sine);
      const __m512 middle = _mm512_add_ps(_mm512_cvtepi32_ps(iota), half);
      SinCos16(_mm512_mul_ps(middle, step), &sine, &cosine);
      _mm512_store_ps(level[2], cosine);
      _mm512_store_ps(level[3], sine);
    }
    if (!run.wide_radius) {
      const __m512i k = _mm512_and_si512(iota, _mm512_set1_epi32((1 << r_bits) - 1));
      _mm512_store_ps(out->radius[s], _mm512_fmadd_ps(_mm512_cvtepi32_ps(k), Set(out->r_step[s]),
                                                      Set(out->r_first[s])));
    }
  }
}

// T[k] = qx cos + qy sin for n_heads heads. q: of the run's first slot and the first head.
void BuildTables(const PolarRun& run, const float* q, int head_stride, int n_heads,
                 RunScratch* out) {
  if (run.angle_table == AngleTable::kProduct) return;
  const bool two = run.angle_table == AngleTable::kTwoVectors;
  for (int s = 0; s < run.count; ++s) {
    const float(*level)[16] = out->level[s];
    const float* q_s = q + 2 * s;
    for (int h = 0; h < n_heads; ++h, q_s += head_stride) {
      const __m512 qx = Set(q_s[0]), qy = Set(q_s[1]);
      const __m512 c = _mm512_load_ps(level[0]), sn = _mm512_load_ps(level[two ? 2 : 1]);
      _mm512_store_ps(out->table[s][h], _mm512_fmadd_ps(qx, c, _mm512_mul_ps(qy, sn)));
      if (!two) continue;
      const __m512 c1 = _mm512_load_ps(level[1]), s1 = _mm512_load_ps(level[3]);
      _mm512_store_ps(out->table[s][h] + 16, _mm512_fmadd_ps(qx, c1, _mm512_mul_ps(qy, s1)));
    }
  }
}

struct ScanArgs {
  const RunScratch* run;
  RunCodes codes;
  int count;              // slots
  const int32_t* a_bits;  // of the run's slots
  const float* q;         // of the run's first slot and the chunk's first head
  int head_stride;        // of q
  int n_tokens;
  bool first;       // true: scores start at 0
  float* score_GT;  // of the chunk's first head
};

// score += r * T for all slots of a run; two groups of 16 tokens share the table loads.
template <int kBits, AngleTable kTable, bool kWide, int kHeads>
void ScanRun(const ScanArgs& args) {
  const RunScratch& run = *args.run;
  for (int i = 0; 16 * i < args.n_tokens; i += 2) {
    __m512 acc[2][kHeads];
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
      PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
        const float* at = args.score_GT + h * kPageTokens + 16 * (i + v);
        acc[v][h] = args.first ? _mm512_setzero_ps() : _mm512_loadu_ps(at);
      }
    }
    for (int s = 0; s < args.count; ++s) {
      const __m512i a_bits = _mm512_set1_epi32(args.a_bits[s]);
      const __m512i code[2] = {Code16<kBits>(args.codes, s, i),
                               Code16<kBits>(args.codes, s, i + 1)};
      const __m512 r[2] = {Radius16<kBits, kWide>(run, s, a_bits, code[0]),
                           Radius16<kBits, kWide>(run, s, a_bits, code[1])};
      if constexpr (kTable == AngleTable::kProduct) {
        __m512 x[2], y[2];
        PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
          Angle16<kTable>(run, s, code[v], &x[v], &y[v]);
          x[v] = _mm512_mul_ps(x[v], r[v]);
          y[v] = _mm512_mul_ps(y[v], r[v]);
        }
        const float* q = args.q + 2 * s;
        PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
          const float* q_h = q + h * args.head_stride;
          const __m512 qx = Set(q_h[0]), qy = Set(q_h[1]);
          PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
            acc[v][h] = _mm512_fmadd_ps(qx, x[v], _mm512_fmadd_ps(qy, y[v], acc[v][h]));
          }
        }
      } else {
        PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
          const __m512 t0 = _mm512_load_ps(run.table[s][h]);
          const __m512 t1 = _mm512_load_ps(run.table[s][h] + 16);
          PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
            const __m512 t = kTable == AngleTable::kOneVector
                                 ? _mm512_permutexvar_ps(code[v], t0)
                                 : _mm512_permutex2var_ps(t0, code[v], t1);
            acc[v][h] = _mm512_fmadd_ps(r[v], t, acc[v][h]);
          }
        }
      }
    }
    PHASOR_UNROLL for (int h = 0; h < kHeads; ++h) {
      PHASOR_UNROLL for (int v = 0; v < 2; ++v) {
        _mm512_storeu_ps(args.score_GT + h * kPageTokens + 16 * (i + v), acc[v][h]);
      }
    }
  }
}

// x and y of all slots of a run to tile[dim][token].
template <int kBits, AngleTable kTable, bool kWide>
void DecodeRun(const PolarLayout& layout, const PolarRun& run, const RunScratch& scratch,
               const RunCodes& codes, int n_tokens, float* tile) {
  for (int s = 0; s < run.count; ++s) {
    const PairDims dims = layout.slots[run.first + s].dims;
    const __m512i a_bits = _mm512_set1_epi32(layout.a_bits_S[run.first + s]);
    float* x_T = tile + dims.x * kRowFloats;
    float* y_T = dims.y < 0 ? nullptr : tile + dims.y * kRowFloats;
    for (int i = 0; 16 * i < n_tokens; ++i) {
      const __m512i code = Code16<kBits>(codes, s, i);
      const __m512 r = Radius16<kBits, kWide>(scratch, s, a_bits, code);
      __m512 cosine, sine;
      Angle16<kTable>(scratch, s, code, &cosine, &sine);
      _mm512_store_ps(x_T + 16 * i, _mm512_mul_ps(r, cosine));
      if (y_T != nullptr) _mm512_store_ps(y_T + 16 * i, _mm512_mul_ps(r, sine));
    }
  }
}

using ScanFunction = void (*)(const ScanArgs&);
using DecodeFunction = void (*)(const PolarLayout&, const PolarRun&, const RunScratch&,
                                const RunCodes&, int, float*);

// Whether some width has this total, angle table and radius kind.
constexpr bool WidthExists(int bits, AngleTable table, bool wide) {
  const int a_low = table == AngleTable::kOneVector ? 2 : table == AngleTable::kTwoVectors ? 5 : 6;
  const int a_high = table == AngleTable::kOneVector ? 4 : table == AngleTable::kTwoVectors ? 5 : 8;
  for (int a = a_low; a <= a_high; ++a) {
    const int r = bits - a;
    if (wide ? (r == 5 || r == 6) : (r >= 1 && r <= 4)) return true;
  }
  return false;
}

struct KernelSet {
  ScanFunction scan[kMaxChunkHeads] = {};
  DecodeFunction decode = nullptr;
};

template <int kBits, AngleTable kTable, bool kWide>
constexpr KernelSet MakeSet() {
  KernelSet set;
  if constexpr (WidthExists(kBits, kTable, kWide)) {
    set.scan[0] = ScanRun<kBits, kTable, kWide, 1>;
    set.scan[1] = ScanRun<kBits, kTable, kWide, 2>;
    set.scan[2] = ScanRun<kBits, kTable, kWide, 3>;
    set.scan[3] = ScanRun<kBits, kTable, kWide, 4>;
    set.decode = DecodeRun<kBits, kTable, kWide>;
  }
  return set;
}

constexpr int kNumTotals = kMaxPolarTotalBits - kMinPolarTotalBits + 1;
struct KernelTable {
  KernelSet set[kNumTotals][3][2];
};

template <int kIndex>
constexpr void FillTable(KernelTable* table) {
  if constexpr (kIndex < kNumTotals) {
    constexpr int kBits = kIndex + kMinPolarTotalBits;
    table->set[kIndex][0][0] = MakeSet<kBits, AngleTable::kOneVector, false>();
    table->set[kIndex][0][1] = MakeSet<kBits, AngleTable::kOneVector, true>();
    table->set[kIndex][1][0] = MakeSet<kBits, AngleTable::kTwoVectors, false>();
    table->set[kIndex][1][1] = MakeSet<kBits, AngleTable::kTwoVectors, true>();
    table->set[kIndex][2][0] = MakeSet<kBits, AngleTable::kProduct, false>();
    table->set[kIndex][2][1] = MakeSet<kBits, AngleTable::kProduct, true>();
    FillTable<kIndex + 1>(table);
  }
}
constexpr KernelTable MakeTable() {
  KernelTable table;
  FillTable<0>(&table);
  return table;
}
constexpr KernelTable kKernels = MakeTable();

const KernelSet& SetOf(const PolarRun& run) {
  return kKernels.set[run.total_bits - kMinPolarTotalBits][static_cast<int>(run.angle_table)]
                     [run.wide_radius ? 1 : 0];
}

RunCodes CodesOf(const PolarLayout& layout, const PolarRun& run, const std::byte* page) {
  RunCodes codes;
  for (int p = 0; p < 4; ++p) codes.part[p] = page + layout.slots[run.first].parts.at[p];
  return codes;
}

void DecodeAvx512(const PolarLayout& layout, const std::byte* page, int n_tokens, float* x_TD) {
  float* tile = TileScratch(layout.head_dim);
  RunScratch scratch;
  for (const PolarRun& run : layout.runs) {
    BuildLevels(layout, run, page, &scratch);
    SetOf(run).decode(layout, run, scratch, CodesOf(layout, run, page), n_tokens, tile);
  }
  TileToRows(tile, layout.head_dim, n_tokens, x_TD);
}

}  // namespace

void ScorePolarFloatAvx512(const PolarLayout& layout, const float* prepared, int g,
                           const std::byte* page, int n_tokens, float* score_GT) {
  const int head_stride = 2 * PaddedPolarSlots(layout);
  RunScratch scratch;
  const int n_chunks = (g + kMaxChunkHeads - 1) / kMaxChunkHeads;
  bool first = true;
  for (const PolarRun& run : layout.runs) {
    BuildLevels(layout, run, page, &scratch);
    for (int c = 0; c < n_chunks; ++c) {  // chunks of nearly equal size
      const int h0 = g * c / n_chunks, n_heads = g * (c + 1) / n_chunks - h0;
      const float* q = prepared + h0 * head_stride + 2 * run.first;
      BuildTables(run, q, head_stride, n_heads, &scratch);
      const ScanArgs args = {&scratch,
                             CodesOf(layout, run, page),
                             run.count,
                             layout.a_bits_S.data() + run.first,
                             q,
                             head_stride,
                             n_tokens,
                             first,
                             score_GT + h0 * kPageTokens};
      SetOf(run).scan[n_heads - 1](args);
    }
    first = false;
  }
}

}  // namespace phasor
PHASOR_END_TARGET

namespace phasor {
const PolarKernels kPolarKernelsAvx512Vnni = {EncodePolarAvx512, DecodeAvx512, ScorePolarAvx512Vnni,
                                              PreparePolarWords};
const PolarKernels kPolarKernelsAvx512 = {EncodePolarAvx512, DecodeAvx512, ScorePolarAvx512,
                                          PreparePolarWords};
}  // namespace phasor
#endif  // __x86_64__
