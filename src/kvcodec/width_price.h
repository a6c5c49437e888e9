// Bits by price: many items, each with a few widths, under one common budget.
#pragma once

#include <cstdint>
#include <vector>

namespace phasor {

struct WidthOption {
  int units;    // of the budget
  double cost;  // weighted error
  uint8_t width_class;
};

// The class of every item. options[i]: by increasing units and decreasing cost, at least one; the
// first options together must fit the budget. Buys steps between neighbouring points of the items'
// lower convex hulls in order of gain per unit, which is the same as lowering a Lagrange multiplier
// until the budget is spent; what is left goes to the best steps that fit.
std::vector<uint8_t> AllocateByPrice(const std::vector<std::vector<WidthOption>>& options,
                                     int64_t budget);

}  // namespace phasor
