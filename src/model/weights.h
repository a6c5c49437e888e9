// Model weights by their GGUF names, whatever file they come from, checked and repacked for use.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/hf_folder.h"
#include "model/model_config.h"
#include "ops/matmul.h"
#include "phasor/status.h"

namespace phasor {

// Finds tensors in a GGUF file or a Hugging Face folder by GGUF name ("blk.3.attn_q.weight").
// The file must outlive the source.
class WeightSource {
 public:
  explicit WeightSource(const GgufFile* file) : gguf_(file) {}
  explicit WeightSource(const HfFolder* folder) : hf_(folder) {}
  const TensorView* Find(const std::string& gguf_name) const;
  // The name the file itself uses, for messages.
  std::string FileName(const std::string& gguf_name) const;
  std::size_t total_bytes() const;

 private:
  const GgufFile* gguf_ = nullptr;
  const HfFolder* hf_ = nullptr;
};

struct LayerWeights {
  std::vector<float> attn_norm, ffn_norm;     // [d_model]
  std::vector<float> q_bias, k_bias, v_bias;  // [heads * head_dim] or empty
  std::vector<float> q_norm, k_norm;          // [head_dim] or empty
  PackedMatrix q, k, v, o;                    // rows: heads * head_dim, ..., d_model
  PackedMatrix gate, up, down;                // rows: d_ff, d_ff, d_model
};

struct ModelWeights {
  TensorView embedding;  // [n_vocab, d_model], read row by row from the file
  const WeightCodecInfo* embedding_codec = nullptr;
  std::vector<float> output_norm;  // [d_model]
  PackedMatrix output;             // [n_vocab, d_model]
  std::vector<LayerWeights> layers;
  std::size_t bytes = 0;  // in memory, after repacking (embedding not counted)
  MatMulPrecision precision = MatMulPrecision::kInt8;
};

// The weight formats phasor has; the engine passes in registry/weight_codec_table.h's finder.
using WeightCodecFinder = const WeightCodecInfo* (*)(DType);

struct LoadWeightsOptions {
  MatMulPrecision precision = MatMulPrecision::kInt8;
  WeightCodecFinder find_codec = nullptr;
  std::function<void(int64_t done_bytes, int64_t total_bytes)> on_progress;  // may be empty
};

// kDataCorrupt names the first tensor that is missing, misshaped or holds NaN; kUnsupported one
// whose type phasor cannot use.
Result<ModelWeights> LoadWeights(const WeightSource& source, const ModelConfig& config,
                                 const LoadWeightsOptions& options, ThreadPool& pool);

// Every tensor the model needs is there with a type that runs and the right shape; the numbers are
// not looked at. Same errors as LoadWeights, in no time.
Status CheckWeights(const WeightSource& source, const ModelConfig& config);

// 16 hex digits that identify a model's query and key projections: what a calibration belongs to.
std::string WeightFingerprint(const WeightSource& source, const ModelConfig& config);

}  // namespace phasor
