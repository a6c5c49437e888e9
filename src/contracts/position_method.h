// PositionMethod: from the RoPE settings of a model to angles per position.
//
// Angles are kept in turns, as integers: a full circle is 2^64, so that position * step wraps
// exactly and the angle at position 1,000,000 is as good as at position 1. The attention factor
// (YaRN) is kept apart from the rotation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "phasor/status.h"

namespace phasor {

// A position, as an integer number of 1/65536: fractional steps (V2PE, 2412.09616) and shifts of
// text stay exact, to positions of 2^47.
using PositionTicks = int64_t;
inline constexpr PositionTicks kTicksPerPosition = 65536;

// The turns * 2^64 of one pair at a position: exact modulo one turn at whole positions, within
// 2^-64 turns at fractions.
inline uint64_t TurnsAt(uint64_t step, PositionTicks position) {
  const bool negative = position < 0;
  const auto size =
      negative ? ~static_cast<uint64_t>(position) + 1 : static_cast<uint64_t>(position);
  const auto turns = static_cast<uint64_t>(static_cast<unsigned __int128>(step) * size >> 16);
  return negative ? ~turns + 1 : turns;
}

struct RopeParams {
  int n_rot = 0;                 // rotated dimensions of a head; n_rot/2 pairs
  double theta_base = 10000.0;   // omega_j = theta_base^(-2j/n_rot), radians per position
  std::string method = "rope";   // id of the position method
  double factor = 1.0;           // context extension factor (linear, yarn, llama3)
  int64_t original_context = 0;  // trained context before extension, tokens
  // llama3
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  // yarn
  double beta_fast = 32.0, beta_slow = 1.0;
  double attention_factor = 0.0;  // 0: the method's default
  // Per-pair divisors of the frequencies from the file (rope_freqs.weight, LongRoPE); may be empty.
  std::vector<float> freq_factors;
};

// What a method publishes; the cache and the codecs know nothing else about positions.
struct PhaseTable {
  std::vector<uint64_t> step_P;   // turns * 2^64 per position, one entry per pair
  float attention_factor = 1.0f;  // multiplies q and k after rotation (so scores by its square)

  bool operator==(const PhaseTable&) const = default;
};

struct PositionMethodInfo {
  const char* id;
  const char* summary;
  const char* source;
  Result<PhaseTable> (*make)(const RopeParams& params);
};

}  // namespace phasor
