// Scores of polar codecs with AVX-512, in 16-bit integers with 32-bit sums: what is made anew for
// every page. Radii and queries are those of the plan (polar_plan.h), tables what
// polar_scan_avx512-inl.h looks up. Cosines and sines of the levels are computed 32 at a time: a
// phase of 16 bits wraps by itself, and the polynomial is four vpmulhrsw. A table of 5 or 6 bits
// counts from the middle of the arc, where the queries have been turned to, so that half of them
// do.
#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cstring>

#include "base/aligned.h"
#include "kvcodec/polar_kernels.h"
#include "kvcodec/polar_plan.h"
#include "kvcodec/polar_scan_avx512.h"
#include "simd/avx512.h"
#include "simd/target.h"

namespace phasor {
namespace {

using ScanFunction = void(const PolarScan&, int n_heads);  // ScanPolarAvx512 of a level

constexpr int kChunkSteps = 16;  // whose tables stay in L1

// Of these, 4/3 of them times 4 (PolarStepRadii::range) fit in 16 bits, and what they add to the
// error is little beside the cosines.
constexpr float kRadiusUnits = 8000.0f;
// Sums of 32 bits, 2 % of which are for rounding.
constexpr float kLargestSum = 0x1p31f * 0.98f / kRadiusUnits;
// A product of a table: 1/12 from the query and from either product in its table, in units of
// kRadiusUnits.
constexpr float kSlotError = kRadiusUnits * kRadiusUnits * 0.25f;
// Cosines and sines, and three times 1/12 from radii.
constexpr float kLevelError = 1e-8f + 0.25f / (kRadiusUnits * kRadiusUnits);

// Of one page, per thread.
struct Scratch {
  PolarPlan plan;
  AlignedBuffer<PolarStepRadii> radii;  // [kChunkSteps]
  AlignedBuffer<int16_t> table;         // of all steps: [PolarTables][g][kPolarTableWords]
  AlignedBuffer<int16_t> fine;          // [kChunkSteps][16][cos, sin]
  AlignedBuffer<int32_t> sum;           // [g][kPageTokens]
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

PHASOR_INLINE PolarStepRadii RadiiOf(const PolarStep& step, const PolarPlan& plan) {
  const auto* range = reinterpret_cast<const uint32_t*>(plan.r_range.data());
  const auto* first = reinterpret_cast<const uint32_t*>(plan.r_first.data());
  const int a = step.slot[0], b = step.slot[1];
  return {(range[a] & 0xffff) << step.unused[0] | (range[b] & 0xffff0000) << step.unused[1],
          (first[a] & 0xffff) | (first[b] & 0xffff0000)};
}

// q: [g][S][x, y] from the slot at hand on; out: [g][kPolarTableWords] from the place of these
// levels on.
template <int kG>
PHASOR_INLINE void StoreLevels(__m512i cosine, __m512i sine, const int32_t* q,
                               std::ptrdiff_t q_stride, int g, int16_t* out) {
  const auto store = [&](int h) {
    const int32_t* at = q + h * q_stride;
    _mm512_store_si512(out + h * kPolarTableWords,
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
    _mm512_store_si512(table + h * kPolarTableWords + 32, _mm512_setzero_si512());
  }
}

template <int kG>
PHASOR_INLINE void Build64(const TableArgs& args, const Angles& angles, const PolarStep& step,
                           const PolarPlan& plan, int16_t* table) {
  const __m512i cells = Load(kCells[6]), reverse = Load(kReverse);
  PHASOR_UNROLL for (int i = 0; i < 2; ++i, table += kPolarTableWords * args.g) {
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
  std::fill_n(table - kPolarTableWords * args.g, kPolarTableWords * args.g, int16_t{0});
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
    table += PolarTables(step->kind) * kPolarTableWords * args.g;
  }
}

// Adds steps [begin, end) of the layout to the sums.
void AddSteps(const TableArgs& args, ScanFunction* scan, int begin, int end, Scratch* scratch,
              LineFetcher* fetcher) {
  constexpr void (*kBuild[])(const TableArgs&, int, int, Scratch*) = {
      BuildSteps<0>, BuildSteps<1>, BuildSteps<2>, BuildSteps<3>, BuildSteps<4>,
      BuildSteps<5>, BuildSteps<6>, BuildSteps<7>, BuildSteps<8>};
  kBuild[args.g <= 8 ? args.g : 0](args, begin, end - begin, scratch);
  const int n_passes = (args.g + kPolarPassHeads - 1) / kPolarPassHeads;
  for (int pass = 0; pass < n_passes; ++pass) {  // of nearly equal size
    const int h = args.g * pass / n_passes, n_heads = args.g * (pass + 1) / n_passes - h;
    const PolarScan part = {args.page,
                            args.layout.steps.data() + begin,
                            scratch->radii.data(),
                            end - begin,
                            scratch->table.data() + h * kPolarTableWords,
                            std::ptrdiff_t{kPolarTableWords} * args.g,
                            scratch->fine.data(),
                            scratch->sum.data() + h * kPageTokens,
                            fetcher};
    scan(part, n_heads);
  }
}

bool Score(const PolarLayout& layout, ScanFunction* scan, const float* prepared, int g,
           const std::byte* page, Scratch* scratch, float* score_GT, LineFetcher* fetcher) {
  constexpr PolarPlanLimits kLimits = {kRadiusUnits, kLargestSum, kSlotError, kLevelError,
                                       /*last_middle_bits=*/6};
  if (!PlanPolarScores(layout, prepared, g, page, kLimits, &scratch->plan)) return false;
  const std::size_t heads = static_cast<std::size_t>(g);
  scratch->radii.Resize(kChunkSteps);
  scratch->table.Resize(heads * kChunkSteps * 2 * kPolarTableWords);
  scratch->fine.Resize(std::size_t{kChunkSteps} * 32);
  scratch->sum.Resize(heads * kPageTokens);
  std::fill_n(scratch->sum.data(), g * kPageTokens, 0);
  const TableArgs args = {layout, page, g, std::ptrdiff_t{2} * PaddedPolarSlots(layout)};
  const int n_steps = static_cast<int>(layout.steps.size());
  const int n_chunks = (n_steps + kChunkSteps - 1) / kChunkSteps;
  for (int c = 0; c < n_chunks; ++c) {
    AddSteps(args, scan, n_steps * c / n_chunks, n_steps * (c + 1) / n_chunks, scratch, fetcher);
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

void ScoreWith(ScanFunction* scan, const PolarLayout& layout, const float* prepared, int g,
               const std::byte* page, int n_tokens, float* score_GT, Upcoming next) {
  static thread_local Scratch thread_scratch;
  Scratch* scratch = &thread_scratch;
  __asm__("" : "+r"(scratch));  // or g++ looks up thread-local memory at each use
  const int n_passes = (g + kPolarPassHeads - 1) / kPolarPassHeads;
  LineFetcher fetcher(next, static_cast<int>(layout.steps.size()) * kPolarBlocks * n_passes);
  if (Score(layout, scan, prepared, g, page, scratch, score_GT, &fetcher)) return;
  ScorePolarFloatAvx512(layout, prepared, g, page, n_tokens, score_GT);
}

}  // namespace

void ScorePolarAvx512(const PolarLayout& layout, const float* prepared, int g,
                      const std::byte* page, int n_tokens, float* score_GT, Upcoming next) {
  ScoreWith(ScanPolarAvx512, layout, prepared, g, page, n_tokens, score_GT, next);
}
void ScorePolarAvx512Vnni(const PolarLayout& layout, const float* prepared, int g,
                          const std::byte* page, int n_tokens, float* score_GT, Upcoming next) {
  ScoreWith(ScanPolarAvx512Vnni, layout, prepared, g, page, n_tokens, score_GT, next);
}

}  // namespace phasor
PHASOR_END_TARGET
#endif  // __x86_64__
