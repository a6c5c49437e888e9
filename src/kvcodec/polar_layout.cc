#include "kvcodec/polar_layout.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "base/check.h"

namespace phasor {
namespace {

AngleTable TableFor(PolarWidth width) {
  if (width.a_bits <= 4) return AngleTable::kOneVector;
  return width.a_bits == 5 ? AngleTable::kTwoVectors : AngleTable::kProduct;
}

// What must be equal within a run.
std::tuple<int, int, bool> Kind(PolarWidth width) {
  return {-width.total(), static_cast<int>(TableFor(width)), width.r_bits > 4};
}

void SetHalf(const PolarLayout& layout, int s, int i, PolarStep* step) {
  const PolarSlot& slot = layout.slots[s];
  const int r_bits = slot.width.r_bits, total = slot.width.total();
  step->slot[i] = s;
  step->a_bits[i] = slot.width.a_bits;
  for (int p = 0; p < 4; ++p) step->part[i][p] = slot.parts.at[p];
  step->unused[i] = static_cast<uint8_t>(HasOneByte(total) ? 8 - total : 0);
  const uint32_t ones = (1u << r_bits) - 1;
  step->radius_words |= (ones << (16 - step->unused[i] - r_bits)) << (16 * i);
}

PolarStepKind StepKind(PolarWidth width) {
  if (width.a_bits <= 5) return PolarStepKind::kLevels32;
  return width.a_bits == 6 ? PolarStepKind::kLevels64 : PolarStepKind::kProduct;
}

void AddSteps(PolarLayout* layout) {
  std::vector<bool> taken(layout->slots.size());
  for (int a = 0; a < layout->n_slots; ++a) {
    if (taken[a]) continue;
    const PolarWidth width = layout->slots[a].width;
    PolarStep step = {};
    step.total_bits = width.total();
    step.kind = StepKind(width);
    int b = step.kind == PolarStepKind::kProduct ? layout->n_slots : a + 1;
    auto fits = [&](int s) {
      const PolarWidth other = layout->slots[s].width;
      return !taken[s] && other.total() == step.total_bits && StepKind(other) == step.kind;
    };
    while (b < layout->n_slots && !fits(b)) ++b;
    step.alone = b == layout->n_slots;
    if (step.alone) b = a;
    taken[a] = taken[b] = true;
    SetHalf(*layout, a, 0, &step);
    SetHalf(*layout, b, 1, &step);
    layout->steps.push_back(step);
  }
}

}  // namespace

PolarLayout MakePolarLayout(int head_dim, const std::vector<PairDims>& pairs,
                            const std::vector<PolarWidth>& width_P, CircleCut cut) {
  PHASOR_CHECK(pairs.size() == width_P.size());
  PolarLayout layout;
  layout.head_dim = head_dim;
  layout.n_slots = static_cast<int>(pairs.size());
  layout.cut = cut;

  std::vector<int> order(pairs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return Kind(width_P[a]) < Kind(width_P[b]); });
  for (int pair : order) {
    const PolarWidth width = width_P[pair];
    PHASOR_CHECK(width.r_bits >= 1 && width.r_bits <= 6 && width.a_bits >= 2 && width.a_bits <= 8);
    PHASOR_CHECK(width.total() >= kMinPolarTotalBits && width.total() <= kMaxPolarTotalBits);
    layout.slots.push_back({pair, pairs[pair], width, {}});
    layout.r_bits_S.push_back(width.r_bits);
    layout.a_bits_S.push_back(width.a_bits);
  }
  layout.r_bits_S.resize(pairs.size() + 16, 1);
  layout.a_bits_S.resize(pairs.size() + 16, 1);

  std::size_t at = (static_cast<std::size_t>(layout.n_slots) * sizeof(PolarGrid) + 63) / 64 * 64;
  for (int p = 0; p < 4; ++p) {
    for (PolarSlot& slot : layout.slots) {
      if ((slot.width.total() & kFieldParts[p]) == 0) continue;
      slot.parts.at[p] = static_cast<uint32_t>(at);
      at += PartBytes(kFieldParts[p]);
    }
  }
  layout.page_bytes = at;

  for (int s = 0; s < layout.n_slots; ++s) {
    const PolarWidth width = layout.slots[s].width;
    bool extend = !layout.runs.empty() && layout.runs.back().count < kMaxRunSlots &&
                  Kind(layout.slots[s - 1].width) == Kind(width);
    if (extend) {
      ++layout.runs.back().count;
    } else {
      layout.runs.push_back({s, 1, width.total(), TableFor(width), width.r_bits > 4});
    }
  }
  AddSteps(&layout);
  return layout;
}

PolarGrid LoadPolarGrid(const PolarLayout& layout, const std::byte* page, int slot) {
  uint16_t field[4];
  for (int f = 0; f < 4; ++f) {
    std::memcpy(&field[f], page + 2 * (f * layout.n_slots + slot), 2);
  }
  return {field[0], field[1], field[2], field[3]};
}

void StorePolarGrid(const PolarLayout& layout, int slot, const PolarGrid& grid, std::byte* page) {
  const uint16_t field[4] = {grid.phi_min, grid.phi_range, grid.r_min, grid.r_step};
  for (int f = 0; f < 4; ++f) {
    std::memcpy(page + 2 * (f * layout.n_slots + slot), &field[f], 2);
  }
}

}  // namespace phasor
