// What a model is, read from GGUF metadata or config.json, checked against its tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "contracts/kv_codec.h"
#include "contracts/position_method.h"
#include "phasor/status.h"

namespace phasor {

class GgufFile;
class HfFolder;

struct ModelConfig {
  std::string architecture;  // "llama", "qwen2", "qwen3"
  std::string name;          // general.name or folder name; may be empty
  int n_layers = 0;
  int d_model = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int d_ff = 0;
  int n_vocab = 0;
  int64_t n_ctx_train = 0;
  float rms_eps = 1e-5f;
  RopePairing pairing = RopePairing::kHalfSplit;
  RopeParams rope;
  bool tied_embeddings = false;
  bool has_qkv_bias = false;
  bool has_qk_norm = false;
  int64_t sliding_window = 0;  // 0: full attention

  int group() const { return n_heads / n_kv_heads; }  // query heads per KV head
};

// Errors name the key or tensor at fault; an unknown architecture lists the known ones.
Result<ModelConfig> ReadModelConfig(const GgufFile& file);
Result<ModelConfig> ReadModelConfig(const HfFolder& folder);

}  // namespace phasor
