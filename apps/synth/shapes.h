// Sizes of published models, for files with random weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/gguf_writer.h"
#include "phasor/status.h"
#include "tensor/dtype.h"

namespace phasor::synth {

struct Shape {
  const char* name;
  const char* like;  // the model it has the sizes of
  int n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, n_vocab;
  bool tied;  // output matrix is the embedding
  double rope_base;
  int64_t n_ctx;
  const char* pre_tokenizer;  // tokenizer.ggml.pre
};

const std::vector<Shape>& Shapes();

// One tensor to write: random weights, or ones for norms (sigma 0).
struct TensorPlan {
  std::string name;
  DType dtype;
  std::vector<int64_t> dims;  // innermost first
  float sigma;
  int64_t n_elements() const;
};

// kInvalidArgument when the sizes do not make a model (heads no multiple of KV heads, odd head
// size, a vocabulary too small for the tokenizer).
Status CheckShape(const Shape& shape);
// The tensors of architecture `llama` in file order. Matrices have deviation 1 / sqrt(columns), so
// that activations keep their size; those that write into the residual stream are smaller by
// sqrt(2 n_layers).
std::vector<TensorPlan> PlanTensors(const Shape& shape, DType weights);
// Keys of the model and of a byte-level tokenizer with as many tokens as the shape has: start and
// end, 256 bytes, pairs of letters with their merges, and unused ones for the rest.
GgufHeader MakeHeader(const Shape& shape, DType weights, uint64_t seed);

}  // namespace phasor::synth
