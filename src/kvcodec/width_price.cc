#include "kvcodec/width_price.h"

#include <algorithm>
#include <cstddef>

namespace phasor {
namespace {

// Lower convex hull of the options: the widths some price per bit would buy.
std::vector<WidthOption> Hull(const std::vector<WidthOption>& options) {
  std::vector<WidthOption> hull;
  for (const WidthOption& option : options) {
    while (hull.size() >= 2) {
      const WidthOption &a = hull[hull.size() - 2], &b = hull.back();
      if ((a.cost - b.cost) * (option.units - b.units) >
          (b.cost - option.cost) * (b.units - a.units)) {
        break;
      }
      hull.pop_back();
    }
    hull.push_back(option);
  }
  return hull;
}

}  // namespace

std::vector<uint8_t> AllocateByPrice(const std::vector<std::vector<WidthOption>>& options,
                                     int64_t budget) {
  struct Step {
    double gain_per_unit;
    std::size_t pair;
    std::size_t to;
  };
  std::vector<std::vector<WidthOption>> hulls;
  std::vector<Step> steps;
  for (std::size_t j = 0; j < options.size(); ++j) {
    hulls.push_back(Hull(options[j]));
    const std::vector<WidthOption>& hull = hulls.back();
    budget -= hull[0].units;
    for (std::size_t o = 1; o < hull.size(); ++o) {
      const double gain = hull[o - 1].cost - hull[o].cost;
      steps.push_back({gain / (hull[o].units - hull[o - 1].units), j, o});
    }
  }
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.gain_per_unit > b.gain_per_unit; });
  std::vector<std::size_t> chosen(options.size(), 0);
  for (const Step& step : steps) {
    const std::vector<WidthOption>& hull = hulls[step.pair];
    const int units = hull[step.to].units - hull[step.to - 1].units;
    if (chosen[step.pair] + 1 != step.to || units > budget) continue;
    chosen[step.pair] = step.to;
    budget -= units;
  }
  std::vector<uint8_t> classes(options.size());
  for (std::size_t j = 0; j < options.size(); ++j) {
    classes[j] = hulls[j][chosen[j]].width_class;
  }
  return classes;
}

}  // namespace phasor
