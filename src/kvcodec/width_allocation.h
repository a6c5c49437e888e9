// Which width class each pair of `polar` gets: the bits where the queries look.
//
// The squared error of a score is about sum_j |q_j|^2 err_j / 2 with err_j the squared error of
// pair j, and most of it sits in few pairs. So the classes are chosen to make
//   sum_j w_j err_j(class_j),   w_j = E|q_j|^2 = E(qx^2 + qy^2) over calibration queries,
// least under a budget of bits. Errors are measured by really encoding calibration keys with every
// class, because arcs and radii are far from uniform. Queries and keys are taken after RoPE.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "contracts/kv_codec.h"
#include "kvcodec/polar.h"

namespace phasor {

// Mean squared error of a reconstructed pair, |k_j - stored k_j|^2, for every class.
struct PairErrorTable {
  int n_pairs = 0;
  int64_t n_tokens = 0;          // tokens the means are over
  std::vector<double> error_PC;  // [n_pairs][kNumPolarClasses]

  double at(int pair, int width_class) const {
    return error_PC[static_cast<std::size_t>(pair) * kNumPolarClasses +
                    static_cast<std::size_t>(width_class)];
  }
};

// Encodes k_TD [n_tokens, D] in groups of 128 tokens (the last one may be shorter) with each class.
// Leave out the first tokens, which the cache keeps in 16 bits and which do not look like the rest.
// params: head_dim, n_rot, pairing; head_dim must be one that `polar` takes (checked). n_tokens
// >= 1.
PairErrorTable MeasurePairErrors(const float* k_TD, int64_t n_tokens, const KvCodecParams& params);
// Adds another sample of the same head.
void MergePairErrors(const PairErrorTable& more, PairErrorTable* table);

// One KV head's part of an allocation.
struct WidthHead {
  const PairErrorTable* errors;
  std::span<const double> weight_P;  // >= 0; a head without queries may be all zero
};

// Class per pair of one head, the best there is under bits_per_element (grids included; 4.25 means
// 8 bits per pair). kInvalidArgument below 2.25, the narrowest class, or when sizes do not match or
// a number is negative or not finite.
Result<std::vector<uint8_t>> AllocateWidths(const WidthHead& head, double bits_per_element);

// The same over several heads with one common budget: bits move to heads that are asked harder.
// Within one step between two classes of the optimum.
Result<std::vector<std::vector<uint8_t>>> AllocateWidthsJointly(std::span<const WidthHead> heads,
                                                                double bits_per_element);

// sum_j w_j err_j(class_j) and the bits per element, grids included.
double WeightedError(const WidthHead& head, std::span<const uint8_t> class_P);
double WidthBitsPerElement(std::span<const uint8_t> class_P);

}  // namespace phasor
