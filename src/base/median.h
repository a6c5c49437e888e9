#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace phasor {

// The number in the middle, or between the two in the middle; 0 of none.
inline double Median(std::vector<double> x) {
  if (x.empty()) return 0;
  std::sort(x.begin(), x.end());
  const std::size_t n = x.size();
  return (x[(n - 1) / 2] + x[n / 2]) / 2;
}

}  // namespace phasor
