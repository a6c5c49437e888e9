// The whole transformer over all tokens at once, with any mask and any positions: the plain
// yardstick of everything that reads text on forks and spans instead of under a mask.
//
// Norms, rotation, attention and activation are in double; weight matrices are multiplied by
// MatMul, which has a reference of its own. Memory and time grow with the square of the tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "contracts/position_method.h"
#include "model/transformer.h"

namespace phasor {

struct DenseReferenceInput {
  std::span<const int32_t> tokens;                // ids within the vocabulary
  std::span<const PositionTicks> positions = {};  // [n]; empty: 0, 1, 2 ...
  // Whether token `query` sees token `key`, for any two different ones; every token sees itself.
  // Empty: key < query.
  std::function<bool(int64_t query, int64_t key)> sees = {};
};

// Logits of every token, [n, n_vocab].
std::vector<float> DenseReferenceLogits(const Transformer& transformer,
                                        const DenseReferenceInput& input, ThreadPool& pool);

}  // namespace phasor
