// Values that lie mostly in few directions, and how q4_head and q3_head store them.
//
// One scale per row makes the error of a stored value alike in every direction, large where values
// are large and where they are small. So a value's part in its strongest directions u_i is
// multiplied by f_i < 1 before the Hadamard rotation P, and by 1 / f_i on the way back. That alone
// makes errors in those directions larger; codes are therefore rounded one after the other, each
// making up for those in front of it (GPTQ, 2210.17323; frame_feedback.h), so that the error on the
// way back is least: its square is e^T (1 + sum_i (f_i^-2 - 1) w_i w_i^T) e with w_i = P u_i.
//
// The directions and what values have in them are measured once per model (engine/calibrate.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "contracts/kv_codec.h"
#include "kvcodec/nearest_level.h"
#include "phasor/status.h"

namespace phasor {

inline constexpr int kStripTokens = 16;

class ValueStretch {
 public:
  // Directions are made orthonormal first. kInvalidArgument where sizes do not match, factors are
  // outside 1/64 .. 64 or directions are next to dependent.
  static Result<ValueStretch> Make(const char* id, const KvCodecParams& params);

  // Rows of D floats in place, before the rotation and after the way back from it.
  void Apply(float* x_ND, int n) const;
  void Undo(float* x_ND, int n) const;

  // Weight of channel r's residual (stored minus what was rounded) in what channel c is rounded
  // from, r < c: [D, D], 0 elsewhere.
  std::span<const float> feedback() const { return feedback_DD_; }
  // y_D -> what its products with an error count: y + sum_i (f_i^-2 - 1) (w_i . y) w_i.
  void Weigh(const float* y_D, float* out_D) const;
  // Of 16 tokens, tokens in lanes ([D][16]): x . Weigh(x) and level . Weigh(x).
  void WeighStrip(const float* x_DT, const float* level_DT, float* square, float* product) const;
  int head_dim() const { return head_dim_; }

 private:
  int head_dim_ = 0, n_directions_ = 0;
  // [n, D padded to 16] each; *_less_one_: f - 1, 1 / f - 1, 1 / f^2 - 1.
  std::vector<float> direction_, rotated_;
  std::vector<float> apply_, undo_, weigh_;
  std::vector<float> feedback_DD_;
};

// A strip of 16 tokens, tokens in lanes.
struct FeedbackStrip {
  const float* x_DT;  // [D][16]
  int head_dim;
  const float* feedback_DD;  // ValueStretch::feedback
  const float* step;         // [16]: value of a level, signed; 0: all codes are 0 and residuals too
  const NearestTables* tables;
  const uint8_t* book;  // [16]
  float* residual_DT;   // [D][16], stored minus what was rounded
  float* level_DT;      // [D][16]
  uint8_t* codes_DT;    // [D][16]
};
// Up to kMostStrips of one head and one set of tables.
inline constexpr int kMostStrips = 2;
void FeedBackStrips(std::span<const FeedbackStrip> strips);

// The `n` strongest directions of moments_DD (E[x x^T], [D, D], symmetric) and factors for them,
// (moment / mean of the rest)^-3/8: half of what would make all alike by itself (-1/4) and of what
// feedback would like best (-1/2). Fewer where moments are 0.
struct Directions {
  std::vector<float> direction_ND, factor_N;
};
Directions StrongestDirections(std::span<const double> moments_DD, int head_dim, int n);

}  // namespace phasor
