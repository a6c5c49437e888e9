// How the pairs of one KV head lie in a page of a polar codec.
//
// Pairs are sorted so that those one kernel loop can serve stand together; a pair's place in that
// order is its *slot*. P = number of pairs. Page:
//   0      u16 phi_min [P], u16 phi_range [P], f16 r_min [P], f16 r_step [P], in slot order
//   8 P    padding to a multiple of 64
//   ...    all 8-bit parts (packed_field.h) in slot order, then all 4-, 2- and 1-bit parts
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcodec/packed_field.h"
#include "kvcodec/polar_grid.h"

namespace phasor {

inline constexpr int kMinPolarTotalBits = 3, kMaxPolarTotalBits = 12;
inline constexpr int kMaxRunSlots = 32;  // bounds the scratch tables of the kernels

// How a kernel finds the cosine and sine of an angle code.
enum class AngleTable : uint8_t {
  kOneVector,   // a_bits <= 4: a table of 16
  kTwoVectors,  // a_bits == 5: a table of 32
  kProduct,     // a_bits 6..8: the angle is a coarse one plus a fine one, two tables of 16
};

// Whether a code's low byte also serves as its top one: it has its radius code, and no more than
// two bits above.
constexpr bool HasOneByte(int total_bits) { return total_bits >= 6 && total_bits <= 8; }

struct PolarSlot {
  int pair;  // index among the head's pairs
  PairDims dims;
  PolarWidth width;
  PartOffsets parts;
};

// Neighbouring slots of one kind; their parts lie one behind the other.
struct PolarRun {
  int first;
  int count;       // <= kMaxRunSlots
  int total_bits;  // of every slot
  AngleTable angle_table;
  bool wide_radius;  // r_bits > 4: too many levels for a table of 16
};

// How the AVX-512 scores find q . (cos, sin) of an angle code.
enum class PolarStepKind : uint8_t {
  kLevels32,  // up to 5 bits: a table
  kLevels64,  // 6 bits
  kProduct,   // 7 and 8 bits: a coarse angle plus a fine one
};

// What they take at once: two slots of one total and kind, with kProduct one. Words of 16 bits
// belong to slot a and to slot b (a once more where there is none) in turn; the top 8 bits of a
// code are in a word's upper byte, or the low 8 bits where HasOneByte.
struct PolarStep {
  int32_t slot[2];  // a and b
  int total_bits;
  PolarStepKind kind;
  bool alone;              // there is no b
  uint8_t a_bits[2];       // of a and b
  uint8_t unused[2];       // bits of a and b above the radius code
  uint32_t radius_words;   // the bits of the radius codes of a and b
  std::size_t part[2][4];  // of a and b: bytes from the start of the page, order of kFieldParts
};

struct PolarLayout {
  int head_dim = 0;
  int n_slots = 0;
  CircleCut cut = CircleCut::kLargestGap;
  std::size_t page_bytes = 0;
  std::vector<PolarSlot> slots;
  std::vector<PolarRun> runs;
  std::vector<PolarStep> steps;
  // The widths once more as vector kernels load them, padded by 16 entries.
  std::vector<int32_t> r_bits_S, a_bits_S;
};

// width_P: one width per pair of `pairs`; r_bits 1..6, a_bits 2..8, total 3..12 (checked).
PolarLayout MakePolarLayout(int head_dim, const std::vector<PairDims>& pairs,
                            const std::vector<PolarWidth>& width_P, CircleCut cut);

// The stored grid of a slot.
PolarGrid LoadPolarGrid(const PolarLayout& layout, const std::byte* page, int slot);
void StorePolarGrid(const PolarLayout& layout, int slot, const PolarGrid& grid, std::byte* page);

}  // namespace phasor
