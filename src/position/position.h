// The position methods of this folder; src/registry/position_table.cc lists them.
#pragma once

#include <cmath>

#include "contracts/position_method.h"

namespace phasor {

extern const PositionMethodInfo kRopeMethod;
extern const PositionMethodInfo kLinearMethod;
extern const PositionMethodInfo kLlama3Method;
extern const PositionMethodInfo kYarnMethod;

// Radians per position to turns per position * 2^64, in long double (64-bit mantissa).
inline uint64_t TurnsFromRadians(long double omega) {
  long double turns = omega / 6.283185307179586476925286766559L;
  turns -= std::floor(turns);
  return static_cast<uint64_t>(turns * 18446744073709551616.0L);
}

// omega_j = theta_base^(-2j/n_rot), divided by the file's factor where there is one.
// kInvalidArgument when n_rot, theta_base or the factors do not fit.
Result<std::vector<long double>> BaseFrequencies(const char* method, const RopeParams& params);

}  // namespace phasor
