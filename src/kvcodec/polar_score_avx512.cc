// Scores of polar codecs with AVX-512, in 16-bit integers with 32-bit sums.
//
// Radii and queries are those of the plan (polar_plan.h). A step of the loop over slots is either
// - two slots of up to 5 angle bits: per head a table of T[k] = q . (cos, sin) over the 32 levels
// of
//   either. The codes of 16 tokens and both slots stand in the words of a vector, so that one
//   vpermi2w finds T for all of them and one vpdpwssd multiplies by the radii and adds; or
// - one slot of 6 to 8 angle bits, whose angle is a coarse one c plus a fine one f: the words of a
//   vector are r (cos f, sin f) of 16 tokens, and per head 16 entries (A, B) with
//   A = q . (cos c, sin c) and B = q . (-sin c, cos c) are looked up with vpermd.
// Cosines and sines of the levels are computed per page, 32 at a time: a phase of 16 bits wraps by
// itself, and the polynomial is four vpmulhrsw. A table of 5 bits counts from the middle of the
// arc, where the queries have been turned to, so 16 of them serve 32 levels.
#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "base/aligned.h"
#include "kvcodec/polar_codes_avx512-inl.h"
#include "kvcodec/polar_kernels.h"
#include "kvcodec/polar_plan.h"
#include "simd/avx512.h"
#include "simd/dot_bytes_avx512.h"
#include "simd/target.h"

namespace phasor {
namespace {

constexpr int kMaxPassHeads = 4;  // of one scan: 4 x 4 accumulators
constexpr int kChunkSteps = 16;   // whose tables stay in L1
constexpr int kWords = 64;        // of a head in a table; steps of 64 levels have two of them
constexpr int kTiles = 4;         // of 16 tokens, of a block of CodeBytes
constexpr int kBlocks = kPageTokens / (16 * kTiles);

// Of these, 4/3 of them times 4 (ScoreStep::r_range) fit in 16 bits, and what they add to the error
// is little beside the cosines.
constexpr float kRadiusUnits = 8000.0f;
// Sums of 32 bits, 2 % of which are for rounding.
constexpr float kLargestSum = 0x1p31f * 0.98f / kRadiusUnits;
// A product of a table: 1/12 from the query and from either product in its table, in units of
// kRadiusUnits.
constexpr float kSlotError = kRadiusUnits * kRadiusUnits * 0.25f;
// Cosines and sines, and three times 1/12 from radii.
constexpr float kLevelError = 1e-8f + 0.25f / (kRadiusUnits * kRadiusUnits);

// Radii of a step's slots in turn. A radius code, in the upper byte of a word, times range is 2^16
// times the radius above first.
struct StepRadii {
  uint32_t range, first;
};

constexpr int TablesOf(PolarStepKind kind) { return kind == PolarStepKind::kLevels64 ? 2 : 1; }
constexpr int CaseOf(PolarStepKind kind, int total_bits) {
  return 16 * static_cast<int>(kind) + total_bits;
}

// Of one page, per thread.
struct Scratch {
  PolarPlan plan;
  AlignedBuffer<StepRadii> radii;  // [kChunkSteps]
  AlignedBuffer<int16_t> table;    // of all steps: [TablesOf][g][kWords]
  AlignedBuffer<int16_t> fine;     // [kChunkSteps][16][cos, sin]
  AlignedBuffer<int32_t> sum;      // [g][kPageTokens]
};

struct alignas(64) Words32 {
  uint16_t at[32] = {};
};

// Where cells begin in parts of an arc, / 65536: every second one the middle of one of 16 cells,
// and those between the same; for 6 bits and more the starts of every 16.
constexpr std::array<Words32, 9> MakeCells() {
  std::array<Words32, 9> out = {};
  for (unsigned bits = 2; bits <= 8; ++bits) {
    for (unsigned k = 0; k < 16; ++k) {
      const auto middle = static_cast<uint16_t>((2 * k + 1) << (15 - bits));
      out[bits].at[2 * k] = middle;
      out[bits].at[2 * k + 1] = bits <= 5 ? middle : static_cast<uint16_t>(k << (20 - bits));
    }
  }
  for (unsigned k = 0; k < 32; ++k) out[6].at[k] = static_cast<uint16_t>((2 * k + 1) << 9);
  return out;
}
constexpr std::array<Words32, 9> kCells = MakeCells();

// From 16 levels of slots a and b in turn to 32 of one: [slot][whether they count from the
// middle].
constexpr std::array<std::array<Words32, 2>, 2> MakeSpread() {
  std::array<std::array<Words32, 2>, 2> out = {};
  for (unsigned slot = 0; slot < 2; ++slot) {
    for (unsigned k = 0; k < 16; ++k) {
      out[slot][0].at[k] = static_cast<uint16_t>(2 * k + slot);
      out[slot][1].at[k] = static_cast<uint16_t>(2 * (15 - k) + slot);
      out[slot][0].at[16 + k] = out[slot][1].at[16 + k] = static_cast<uint16_t>(2 * k + slot);
    }
  }
  return out;
}
constexpr std::array<std::array<Words32, 2>, 2> kSpread = MakeSpread();
// Below the middle sines are negative, up to 2^-15.
constexpr Words32 kBelow[2] = {{},
                               {{0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
                                 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff}}};

constexpr Words32 MakeReverse() {
  Words32 out;
  for (unsigned k = 0; k < 32; ++k) out.at[k] = static_cast<uint16_t>(31 - k);
  return out;
}
constexpr Words32 kReverse = MakeReverse();

// From vectors of fine and coarse levels in turn to pairs of entry k of either: [fine, coarse].
constexpr std::array<Words32, 2> MakePairs() {
  std::array<Words32, 2> out = {};
  for (unsigned coarse = 0; coarse < 2; ++coarse) {
    for (unsigned k = 0; k < 16; ++k) {
      out[coarse].at[2 * k] = static_cast<uint16_t>(2 * k + coarse);
      out[coarse].at[2 * k + 1] = static_cast<uint16_t>(32 + 2 * k + coarse);
    }
  }
  return out;
}
constexpr std::array<Words32, 2> kPairs = MakePairs();

// Bytes of two vectors of CodeBytes to the words of one tile: each twice, of the first and of the
// second in turn; and the two as a word, twice.
struct TileBytes {
  alignas(64) uint8_t each_twice[kTiles][64] = {}, both_twice[kTiles][64] = {};
  constexpr TileBytes() {
    for (unsigned k = 0; k < kTiles; ++k) {
      for (unsigned i = 0; i < 64; ++i) {
        const unsigned from = 4 * (i / 4) + k;
        each_twice[k][i] = static_cast<uint8_t>(from + 64 * (i % 4 / 2));
        both_twice[k][i] = static_cast<uint8_t>(from + 64 * (i % 2));
      }
    }
  }
};
constexpr TileBytes kTileBytes;

}  // namespace
}  // namespace phasor

PHASOR_BEGIN_AVX512
namespace phasor {
namespace {

PHASOR_INLINE __m512i Set16(int x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
PHASOR_INLINE __m512i Load(const Words32& words) { return _mm512_load_si512(words.at); }

// A constant that stays in a register: g++ makes those of one number anew in every pass of a loop.
PHASOR_INLINE __m512i Constant(int x) {
  __m512i all = Set16(x);
#if !defined(PHASOR_EMULATE_AVX512)
  __asm__("" : "+v"(all));
#endif
  return all;
}

// Cosines and sines of (phase + 1/2) / 65536 turns, in 2^-15.
class Angles {
 public:
  PHASOR_INLINE Angles()
      : all_ones_(Constant(-1)),
        largest_(Constant(32767)),
        quarter_(Constant(16384)),
        c0_(Constant(kPolarSine[0])),
        c1_(Constant(kPolarSine[1])),
        c2_(Constant(kPolarSine[2])) {}
  PHASOR_INLINE __m512i Cosine(__m512i phase) const {
    // How far the angle is from half a turn, -1 to 1, is a sine's argument.
    const __m512i folded = _mm512_max_epi16(phase, _mm512_xor_si512(phase, all_ones_));
    const __m512i z = _mm512_sub_epi16(largest_, _mm512_add_epi16(folded, folded));
    const __m512i u = _mm512_mulhrs_epi16(z, z);
    __m512i t = _mm512_mulhrs_epi16(u, c2_);
    t = _mm512_mulhrs_epi16(_mm512_add_epi16(t, c1_), u);
    t = _mm512_mulhrs_epi16(_mm512_add_epi16(t, c0_), z);
    return _mm512_adds_epi16(z, t);
  }
  PHASOR_INLINE __m512i Sine(__m512i phase) const {
    return Cosine(_mm512_sub_epi16(phase, quarter_));
  }

 private:
  __m512i all_ones_, largest_, quarter_, c0_, c1_, c2_;
};

// The arcs of a slot and the one behind it.
PHASOR_INLINE uint32_t ArcsOf(const PolarLayout& layout, const std::byte* page, int slot) {
  uint32_t arcs;
  std::memcpy(&arcs, page + 2 * (layout.n_slots + slot), sizeof(arcs));
  return arcs;
}

PHASOR_INLINE StepRadii RadiiOf(const PolarStep& step, const PolarPlan& plan) {
  const auto* range = reinterpret_cast<const uint32_t*>(plan.r_range.data());
  const auto* first = reinterpret_cast<const uint32_t*>(plan.r_first.data());
  const int a = step.slot[0], b = step.slot[1];
  return {(range[a] & 0xffff) << step.unused[0] | (range[b] & 0xffff0000) << step.unused[1],
          (first[a] & 0xffff) | (first[b] & 0xffff0000)};
}

// q: [g][S][x, y] from the slot at hand on; out: [g][kWords] from the place of these levels on.
template <int kG>
PHASOR_INLINE void StoreLevels(__m512i cosine, __m512i sine, const int32_t* q,
                               std::ptrdiff_t q_stride, int g, int16_t* out) {
  const auto store = [&](int h) {
    const int32_t* at = q + h * q_stride;
    _mm512_store_si512(out + h * kWords,
                       _mm512_add_epi16(_mm512_mulhrs_epi16(cosine, _mm512_set1_epi32(at[0])),
                                        _mm512_mulhrs_epi16(sine, _mm512_set1_epi32(at[1]))));
  };
  if constexpr (kG > 0) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) store(h);
  } else {
    for (int h = 0; h < g; ++h) store(h);
  }
}

struct TableArgs {
  const PolarLayout& layout;
  const std::byte* page;
  int g;
  std::ptrdiff_t q_stride;
};

template <int kG>
PHASOR_INLINE void Build32(const TableArgs& args, const Angles& angles, const PolarStep& step,
                           const PolarPlan& plan, int16_t* table) {
  // Beyond the last slot the other arc is what follows in the page, and not used.
  const __m512i range =
      _mm512_set1_epi32(static_cast<int>(ArcsOf(args.layout, args.page, step.slot[0])));
  const __m512i cells = _mm512_mask_blend_epi16(0xaaaaaaaa, Load(kCells[step.a_bits[0]]),
                                                Load(kCells[step.a_bits[1]]));
  const __m512i phase = _mm512_mulhi_epu16(cells, range);
  const __m512i cosine = angles.Cosine(phase), sine = angles.Sine(phase);
  PHASOR_UNROLL for (unsigned i = 0; i < 2; ++i) {
    const unsigned from_middle = step.a_bits[i] == 5;
    const __m512i spread = Load(kSpread[i][from_middle]);
    const __m512i c = _mm512_permutexvar_epi16(spread, cosine);
    const __m512i s =
        _mm512_xor_si512(_mm512_permutexvar_epi16(spread, sine), Load(kBelow[from_middle]));
    StoreLevels<kG>(c, s, plan.q16.data() + 2 * step.slot[i], args.q_stride, args.g,
                    table + 32 * i);
  }
  if (!step.alone) return;
  for (int h = 0; h < args.g; ++h) {
    _mm512_store_si512(table + h * kWords + 32, _mm512_setzero_si512());
  }
}

template <int kG>
PHASOR_INLINE void Build64(const TableArgs& args, const Angles& angles, const PolarStep& step,
                           const PolarPlan& plan, int16_t* table) {
  const __m512i cells = Load(kCells[6]), reverse = Load(kReverse);
  PHASOR_UNROLL for (int i = 0; i < 2; ++i, table += kWords * args.g) {
    const __m512i range =
        _mm512_set1_epi16(static_cast<int16_t>(ArcsOf(args.layout, args.page, step.slot[i])));
    const __m512i phase = _mm512_mulhi_epu16(cells, range);
    const __m512i cosine = angles.Cosine(phase), sine = angles.Sine(phase);
    const int32_t* q = plan.q16.data() + 2 * step.slot[i];
    const __m512i minus = _mm512_xor_si512(sine, Set16(-1));
    StoreLevels<kG>(_mm512_permutexvar_epi16(reverse, cosine),
                    _mm512_permutexvar_epi16(reverse, minus), q, args.q_stride, args.g, table);
    StoreLevels<kG>(cosine, sine, q, args.q_stride, args.g, table + 32);
  }
  if (!step.alone) return;
  std::fill_n(table - kWords * args.g, kWords * args.g, int16_t{0});
}

template <int kG>
PHASOR_INLINE void BuildProduct(const TableArgs& args, const Angles& angles, const PolarStep& step,
                                const PolarPlan& plan, int16_t* table, int16_t* fine) {
  const __m512i range =
      _mm512_set1_epi16(static_cast<int16_t>(ArcsOf(args.layout, args.page, step.slot[0])));
  const __m512i phase = _mm512_mulhi_epu16(Load(kCells[step.a_bits[0]]), range);
  const __m512i cosine = angles.Cosine(phase), sine = angles.Sine(phase);
  _mm512_store_si512(fine, _mm512_permutex2var_epi16(cosine, Load(kPairs[0]), sine));
  // (cos, -sin) with x and (sin, cos) with y give A and B.
  const __m512i minus = _mm512_xor_si512(sine, Set16(-1));
  StoreLevels<kG>(_mm512_permutex2var_epi16(cosine, Load(kPairs[1]), minus),
                  _mm512_permutex2var_epi16(sine, Load(kPairs[1]), cosine),
                  plan.q16.data() + 2 * step.slot[0], args.q_stride, args.g, table);
}

// Radii of the codes in the upper bytes of `words`.
PHASOR_INLINE __m512i Radii(uint32_t mask, const StepRadii& radii, __m512i words) {
  const __m512i code = _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(mask)));
  return _mm512_add_epi16(
      _mm512_mulhi_epu16(code, _mm512_set1_epi32(static_cast<int>(radii.range))),
      _mm512_set1_epi32(static_cast<int>(radii.first)));
}

// Of two slots and the tiles of a block: where in the table, and radii.
template <PolarStepKind kKind, int kBits>
PHASOR_INLINE void LoadPair(const std::byte* page, const PolarStep& step, const StepRadii& radii,
                            int block, __m512i* index, __m512i* r) {
  __m512i low[2], top[2];
  CodeBytes<kBits>(page, step.part[0], block, &low[0], &top[0]);
  CodeBytes<kBits>(page, step.part[1], block, &low[1], &top[1]);
  PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
    const __m512i from = _mm512_load_si512(kTileBytes.each_twice[k]);
    const __m512i words = _mm512_permutex2var_epi8(low[0], from, low[1]);
    r[k] = Radii(step.radius_words, radii,
                 HasOneByte(kBits) ? words : _mm512_permutex2var_epi8(top[0], from, top[1]));
    // A table of 64 has a vector for each slot; with two of them the low 6 bits serve as they are.
    index[k] = kKind == PolarStepKind::kLevels64
                   ? words
                   : _mm512_ternarylogic_epi32(words, _mm512_set1_epi16(0x1f),
                                               _mm512_set1_epi32(0x200000), 0xea);
  }
}

// Of a slot with coarse and fine angles: the coarse one (in the low 4 bits), and r (cos, sin) of
// the fine one.
template <int kBits>
PHASOR_INLINE void LoadProduct(const std::byte* page, const PolarStep& step, const StepRadii& radii,
                               const int16_t* fine, int block, __m512i* coarse, __m512i* r) {
  __m512i low, top;
  CodeBytes<kBits>(page, step.part[0], block, &low, &top);
  const __m512i directions = _mm512_load_si512(fine);
  PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
    const __m512i words =
        _mm512_permutex2var_epi8(low, _mm512_load_si512(kTileBytes.both_twice[k]), top);
    coarse[k] = _mm512_srli_epi32(words, 4);
    r[k] = _mm512_mulhrs_epi16(Radii(step.radius_words, radii, words),
                               _mm512_permutexvar_epi32(words, directions));
  }
}

struct ScanArgs {
  const std::byte* page;
  const PolarStep* step;
  const StepRadii* radii;
  int n;
  const int16_t* table;  // of the first head
  std::ptrdiff_t plane;  // words of a table of all heads
  const int16_t* fine;
  int32_t* sum;  // of the first head
};

// Adds the products of a step to the sums of kG heads.
template <PolarStepKind kKind, int kG>
PHASOR_INLINE void AddProducts(const int16_t* table, std::ptrdiff_t plane,
                               const __m512i (&index)[kTiles], const __m512i (&r)[kTiles],
                               __m512i (&acc)[kG][kTiles]) {
  if constexpr (kKind == PolarStepKind::kLevels32) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const __m512i a = _mm512_load_si512(table + kWords * h);
      const __m512i b = _mm512_load_si512(table + kWords * h + 32);
      PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
        AddWordProducts(acc[h][k], _mm512_permutex2var_epi16(a, index[k], b), r[k]);
      }
    }
  } else if constexpr (kKind == PolarStepKind::kLevels64) {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const int16_t *at = table + kWords * h, *at_b = at + plane;
      const __m512i a0 = _mm512_load_si512(at), a1 = _mm512_load_si512(at + 32);
      const __m512i b0 = _mm512_load_si512(at_b), b1 = _mm512_load_si512(at_b + 32);
      PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
        const __m512i a = _mm512_permutex2var_epi16(a0, index[k], a1);
        const __m512i b = _mm512_permutex2var_epi16(b0, index[k], b1);
        AddWordProducts(acc[h][k], _mm512_mask_blend_epi16(0xaaaaaaaa, a, b), r[k]);
      }
    }
  } else {
    PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
      const __m512i q = _mm512_load_si512(table + kWords * h);
      PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
        AddWordProducts(acc[h][k], _mm512_permutexvar_epi32(index[k], q), r[k]);
      }
    }
  }
}

// Where a scan stands.
struct Place {
  const std::byte* page;
  const PolarStep* step;
  const StepRadii* radii;
  const int16_t *table, *fine;
  std::ptrdiff_t plane;
};

template <PolarStepKind kKind, int kBits, int kG>
PHASOR_INLINE void AddStep(const Place& at, int block, __m512i (&acc)[kG][kTiles]) {
  __m512i index[kTiles], r[kTiles];
  if constexpr (kKind == PolarStepKind::kProduct) {
    LoadProduct<kBits>(at.page, *at.step, *at.radii, at.fine, block, index, r);
  } else {
    LoadPair<kKind, kBits>(at.page, *at.step, *at.radii, block, index, r);
  }
  AddProducts<kKind>(at.table, at.plane, index, r, acc);
}

// Adds what all steps contribute to the sums of kG heads and a block of tokens.
template <int kG>
void Scan(const ScanArgs& args, int block) {
  __m512i acc[kG][kTiles];
  int32_t* sum = args.sum + 16 * kTiles * block;
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
      acc[h][k] = _mm512_load_si512(sum + h * kPageTokens + 16 * k);
    }
  }
  Place at = {args.page, args.step, args.radii, args.table, args.fine, args.plane};
  const PolarStep* end = args.step + args.n;
  for (; at.step != end; ++at.step, ++at.radii, at.fine += 32) {
    switch (CaseOf(at.step->kind, at.step->total_bits)) {
#define PHASOR_CASE(kind, bits)                             \
  case CaseOf(PolarStepKind::kind, bits):                   \
    AddStep<PolarStepKind::kind, bits, kG>(at, block, acc); \
    break
      PHASOR_CASE(kLevels32, 3);
      PHASOR_CASE(kLevels32, 4);
      PHASOR_CASE(kLevels32, 5);
      PHASOR_CASE(kLevels32, 6);
      PHASOR_CASE(kLevels32, 7);
      PHASOR_CASE(kLevels32, 8);
      PHASOR_CASE(kLevels32, 9);
      PHASOR_CASE(kLevels32, 10);
      PHASOR_CASE(kLevels32, 11);
      PHASOR_CASE(kLevels64, 7);
      PHASOR_CASE(kLevels64, 8);
      PHASOR_CASE(kLevels64, 9);
      PHASOR_CASE(kLevels64, 10);
      PHASOR_CASE(kLevels64, 11);
      PHASOR_CASE(kLevels64, 12);
      PHASOR_CASE(kProduct, 8);
      PHASOR_CASE(kProduct, 9);
      PHASOR_CASE(kProduct, 10);
      PHASOR_CASE(kProduct, 11);
      PHASOR_CASE(kProduct, 12);
#undef PHASOR_CASE
    }
    at.table += TablesOf(at.step->kind) * at.plane;
  }
  PHASOR_UNROLL for (int h = 0; h < kG; ++h) {
    PHASOR_UNROLL for (int k = 0; k < kTiles; ++k) {
      _mm512_store_si512(sum + h * kPageTokens + 16 * k, acc[h][k]);
    }
  }
}

// Fills what Scan takes, of steps [begin, begin + n) of the layout.
template <int kG>
void BuildSteps(const TableArgs& args, int begin, int n, Scratch* scratch) {
  const Angles angles;
  const PolarStep* step = args.layout.steps.data() + begin;
  int16_t* table = scratch->table.data();
  int16_t* fine = scratch->fine.data();
  for (int i = 0; i < n; ++i, ++step, fine += 32) {
    scratch->radii.data()[i] = RadiiOf(*step, scratch->plan);
    switch (step->kind) {
      case PolarStepKind::kLevels32:
        Build32<kG>(args, angles, *step, scratch->plan, table);
        break;
      case PolarStepKind::kLevels64:
        Build64<kG>(args, angles, *step, scratch->plan, table);
        break;
      case PolarStepKind::kProduct:
        BuildProduct<kG>(args, angles, *step, scratch->plan, table, fine);
        break;
    }
    table += TablesOf(step->kind) * kWords * args.g;
  }
}

// Adds steps [begin, end) of the layout to the sums.
void AddSteps(const TableArgs& args, int begin, int end, Scratch* scratch) {
  constexpr void (*kBuild[])(const TableArgs&, int, int, Scratch*) = {
      BuildSteps<0>, BuildSteps<1>, BuildSteps<2>, BuildSteps<3>, BuildSteps<4>,
      BuildSteps<5>, BuildSteps<6>, BuildSteps<7>, BuildSteps<8>};
  kBuild[args.g <= 8 ? args.g : 0](args, begin, end - begin, scratch);
  constexpr void (*kScan[])(const ScanArgs&, int) = {Scan<1>, Scan<2>, Scan<3>, Scan<4>};
  const int n_passes = (args.g + kMaxPassHeads - 1) / kMaxPassHeads;
  for (int pass = 0; pass < n_passes; ++pass) {  // of nearly equal size
    const int h = args.g * pass / n_passes, n_heads = args.g * (pass + 1) / n_passes - h;
    const ScanArgs scan = {args.page,
                           args.layout.steps.data() + begin,
                           scratch->radii.data(),
                           end - begin,
                           scratch->table.data() + h * kWords,
                           std::ptrdiff_t{kWords} * args.g,
                           scratch->fine.data(),
                           scratch->sum.data() + h * kPageTokens};
    for (int block = 0; block < kBlocks; ++block) kScan[n_heads - 1](scan, block);
  }
}

bool Score(const PolarLayout& layout, const float* prepared, int g, const std::byte* page,
           Scratch* scratch, float* score_GT) {
  constexpr PolarPlanLimits kLimits = {kRadiusUnits, kLargestSum, kSlotError, kLevelError,
                                       /*last_middle_bits=*/6};
  if (!PlanPolarScores(layout, prepared, g, page, kLimits, &scratch->plan)) return false;
  const std::size_t heads = static_cast<std::size_t>(g);
  scratch->radii.Resize(kChunkSteps);
  scratch->table.Resize(heads * kChunkSteps * 2 * kWords);
  scratch->fine.Resize(std::size_t{kChunkSteps} * 32);
  scratch->sum.Resize(heads * kPageTokens);
  std::fill_n(scratch->sum.data(), g * kPageTokens, 0);
  const TableArgs args = {layout, page, g, std::ptrdiff_t{2} * PaddedPolarSlots(layout)};
  const int n_steps = static_cast<int>(layout.steps.size());
  const int n_chunks = (n_steps + kChunkSteps - 1) / kChunkSteps;
  for (int c = 0; c < n_chunks; ++c) {
    AddSteps(args, n_steps * c / n_chunks, n_steps * (c + 1) / n_chunks, scratch);
  }
  for (int h = 0; h < g; ++h) {
    const __m512 unit = _mm512_set1_ps(scratch->plan.unit.data()[h]);
    for (int t = h * kPageTokens; t < (h + 1) * kPageTokens; t += 16) {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(scratch->sum.data() + t));
      _mm512_storeu_ps(score_GT + t, _mm512_mul_ps(sum, unit));
    }
  }
  return true;
}

}  // namespace

void ScorePolarAvx512(const PolarLayout& layout, const float* prepared, int g,
                      const std::byte* page, int n_tokens, float* score_GT) {
  static thread_local Scratch thread_scratch;
  Scratch* scratch = &thread_scratch;
  __asm__("" : "+r"(scratch));  // or g++ looks up thread-local memory at each use
  if (Score(layout, prepared, g, page, scratch, score_GT)) return;
  ScorePolarFloatAvx512(layout, prepared, g, page, n_tokens, score_GT);
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
