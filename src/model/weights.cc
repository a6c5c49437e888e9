#include "model/weights.h"

#include <xxhash.h>

#include <atomic>
#include <cmath>

#include <fmt/format.h>

namespace phasor {
namespace {

struct NamePair {
  const char* gguf;
  const char* hf;
};

constexpr NamePair kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
};

constexpr NamePair kGlobalNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

std::string HfName(const std::string& gguf_name) {
  for (const NamePair& p : kGlobalNames) {
    if (gguf_name == p.gguf) return p.hf;
  }
  if (gguf_name.rfind("blk.", 0) == 0) {
    const std::size_t dot = gguf_name.find('.', 4);
    const std::string layer = gguf_name.substr(4, dot - 4), rest = gguf_name.substr(dot + 1);
    for (const NamePair& p : kLayerNames) {
      if (rest == p.gguf) return "model.layers." + layer + "." + p.hf;
    }
  }
  return gguf_name;
}

// Checks that a tensor is there with a type that runs and a shape; rows = 1 for vectors.
Result<const TensorView*> GetTensor(const WeightSource& source, const std::string& name,
                                    int64_t rows, int64_t cols) {
  const TensorView* t = source.Find(name);
  if (t == nullptr) {
    return DataCorrupt("model: tensor " + source.FileName(name) + ": expected, found none");
  }
  if (!t->supported()) {
    return Unsupported("model: tensor " + t->name + ": expected a type `phasor methods` lists, " +
                       "found " + GgufTypeName(t->gguf_type) + " (" + std::to_string(t->gguf_type) +
                       ")");
  }
  if (t->n_cols() != cols || t->n_rows() != rows) {
    return DataCorrupt(fmt::format("model: tensor {}: expected shape [{}, {}], found [{}, {}]",
                                   t->name, rows, cols, t->n_rows(), t->n_cols()));
  }
  return t;
}

// The embedding stays in the file's format and its rows are read while the model runs, so a number
// that is not finite would show only when its token comes up.
Status CheckEmbeddingIsFinite(const TensorView& t, const WeightCodecInfo& codec, ThreadPool& pool) {
  const int64_t n = t.n_cols(), row_bytes = RowBytes(t.dtype(), n);
  std::atomic<int64_t> bad{-1};
  pool.ParallelFor(t.n_rows(), 64, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(n));
    for (int64_t i = begin; i < end; ++i) {
      codec.decode(t.bytes.data() + i * row_bytes, n, row.data());
      for (float v : row) {
        if (!std::isfinite(v)) bad.store(i);
      }
    }
  });
  if (bad.load() < 0) return Status::Ok();
  return DataCorrupt(fmt::format(
      "model: tensor {}: expected finite numbers, found another in row {}", t.name, bad.load()));
}

class Loader {
 public:
  Loader(const WeightSource& source, const ModelConfig& config, const LoadWeightsOptions& options,
         ThreadPool& pool)
      : source_(source), config_(config), options_(options), pool_(pool) {}

  Result<const TensorView*> Get(const std::string& name, int64_t rows, int64_t cols) {
    return GetTensor(source_, name, rows, cols);
  }

  Status Vector(const std::string& name, int64_t n, std::vector<float>* out) {
    PHASOR_ASSIGN_OR_RETURN(const TensorView* t, Get(name, 1, n));
    out->resize(n);
    options_.find_codec(t->dtype())->decode(t->bytes.data(), n, out->data());
    for (float v : *out) {
      if (!std::isfinite(v)) {
        return DataCorrupt("model: tensor " + t->name + ": expected finite numbers, found " +
                           std::to_string(v));
      }
    }
    Done(*t);
    return Status::Ok();
  }

  Status Matrix(const std::string& name, int64_t rows, int64_t cols, PackedMatrix* out) {
    PHASOR_ASSIGN_OR_RETURN(const TensorView* t, Get(name, rows, cols));
    auto packed = PackedMatrix::Pack(*options_.find_codec(t->dtype()), t->bytes.data(), rows, cols,
                                     options_.precision, pool_);
    if (!packed.ok()) return packed.status().WithPrefix("model: tensor " + t->name);
    *out = std::move(packed).value();
    bytes_ += out->size_bytes();
    Done(*t);
    return Status::Ok();
  }

  Status Layer(int index, LayerWeights* w) {
    const std::string p = "blk." + std::to_string(index) + ".";
    const int64_t d = config_.d_model, ff = config_.d_ff;
    const int64_t q = static_cast<int64_t>(config_.n_heads) * config_.head_dim;
    const int64_t kv = static_cast<int64_t>(config_.n_kv_heads) * config_.head_dim;
    PHASOR_RETURN_IF_ERROR(Vector(p + "attn_norm.weight", d, &w->attn_norm));
    PHASOR_RETURN_IF_ERROR(Matrix(p + "attn_q.weight", q, d, &w->q));
    PHASOR_RETURN_IF_ERROR(Matrix(p + "attn_k.weight", kv, d, &w->k));
    PHASOR_RETURN_IF_ERROR(Matrix(p + "attn_v.weight", kv, d, &w->v));
    if (config_.has_qkv_bias) {
      PHASOR_RETURN_IF_ERROR(Vector(p + "attn_q.bias", q, &w->q_bias));
      PHASOR_RETURN_IF_ERROR(Vector(p + "attn_k.bias", kv, &w->k_bias));
      PHASOR_RETURN_IF_ERROR(Vector(p + "attn_v.bias", kv, &w->v_bias));
    }
    if (config_.has_qk_norm) {
      PHASOR_RETURN_IF_ERROR(Vector(p + "attn_q_norm.weight", config_.head_dim, &w->q_norm));
      PHASOR_RETURN_IF_ERROR(Vector(p + "attn_k_norm.weight", config_.head_dim, &w->k_norm));
    }
    PHASOR_RETURN_IF_ERROR(Matrix(p + "attn_output.weight", d, q, &w->o));
    PHASOR_RETURN_IF_ERROR(Vector(p + "ffn_norm.weight", d, &w->ffn_norm));
    PHASOR_RETURN_IF_ERROR(Matrix(p + "ffn_gate.weight", ff, d, &w->gate));
    PHASOR_RETURN_IF_ERROR(Matrix(p + "ffn_up.weight", ff, d, &w->up));
    return Matrix(p + "ffn_down.weight", d, ff, &w->down);
  }

  std::size_t bytes() const { return bytes_; }

 private:
  void Done(const TensorView& t) {
    done_ += static_cast<int64_t>(t.bytes.size());
    if (options_.on_progress) {
      options_.on_progress(done_, static_cast<int64_t>(source_.total_bytes()));
    }
  }

  const WeightSource& source_;
  const ModelConfig& config_;
  const LoadWeightsOptions& options_;
  ThreadPool& pool_;
  int64_t done_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace

const TensorView* WeightSource::Find(const std::string& gguf_name) const {
  return gguf_ != nullptr ? gguf_->FindTensor(gguf_name) : hf_->FindTensor(HfName(gguf_name));
}

std::string WeightSource::FileName(const std::string& gguf_name) const {
  return gguf_ != nullptr ? gguf_name : HfName(gguf_name);
}

std::size_t WeightSource::total_bytes() const {
  return gguf_ != nullptr ? gguf_->size_bytes() : hf_->size_bytes();
}

Result<ModelWeights> LoadWeights(const WeightSource& source, const ModelConfig& config,
                                 const LoadWeightsOptions& options, ThreadPool& pool) {
  Loader loader(source, config, options, pool);
  ModelWeights w;
  w.precision = options.precision;
  try {
    PHASOR_ASSIGN_OR_RETURN(const TensorView* embedding,
                            loader.Get("token_embd.weight", config.n_vocab, config.d_model));
    w.embedding = *embedding;
    w.embedding_codec = options.find_codec(embedding->dtype());
    // Tied weights are checked where they are packed.
    if (!config.tied_embeddings) {
      PHASOR_RETURN_IF_ERROR(CheckEmbeddingIsFinite(*embedding, *w.embedding_codec, pool));
    }
    PHASOR_RETURN_IF_ERROR(loader.Vector("output_norm.weight", config.d_model, &w.output_norm));
    PHASOR_RETURN_IF_ERROR(
        loader.Matrix(config.tied_embeddings ? "token_embd.weight" : "output.weight",
                      config.n_vocab, config.d_model, &w.output));
    w.layers.resize(config.n_layers);
    for (int i = 0; i < config.n_layers; ++i) {
      PHASOR_RETURN_IF_ERROR(loader.Layer(i, &w.layers[i]));
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("model: no memory for the weights (" +
                             std::to_string(source.total_bytes() >> 20) + " MiB in the file)");
  }
  w.bytes = loader.bytes();
  return w;
}

Status CheckWeights(const WeightSource& source, const ModelConfig& c) {
  auto check = [&](const std::string& name, int64_t rows, int64_t cols) {
    return GetTensor(source, name, rows, cols).status();
  };
  const int64_t d = c.d_model, ff = c.d_ff, head = c.head_dim;
  const int64_t q = c.n_heads * head, kv = c.n_kv_heads * head;
  struct Shape {
    const char* name;
    int64_t rows, cols;
  };
  std::vector<Shape> layer = {{"attn_norm", 1, d}, {"attn_q", q, d},      {"attn_k", kv, d},
                              {"attn_v", kv, d},   {"attn_output", d, q}, {"ffn_norm", 1, d},
                              {"ffn_gate", ff, d}, {"ffn_up", ff, d},     {"ffn_down", d, ff}};
  if (c.has_qk_norm)
    layer.insert(layer.end(), {{"attn_q_norm", 1, head}, {"attn_k_norm", 1, head}});
  PHASOR_RETURN_IF_ERROR(check("token_embd.weight", c.n_vocab, d));
  PHASOR_RETURN_IF_ERROR(check("output_norm.weight", 1, d));
  if (!c.tied_embeddings) PHASOR_RETURN_IF_ERROR(check("output.weight", c.n_vocab, d));
  for (int i = 0; i < c.n_layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    for (const Shape& s : layer) {
      PHASOR_RETURN_IF_ERROR(check(prefix + s.name + ".weight", s.rows, s.cols));
    }
    if (!c.has_qkv_bias) continue;
    PHASOR_RETURN_IF_ERROR(check(prefix + "attn_q.bias", 1, q));
    PHASOR_RETURN_IF_ERROR(check(prefix + "attn_k.bias", 1, kv));
    PHASOR_RETURN_IF_ERROR(check(prefix + "attn_v.bias", 1, kv));
  }
  return Status::Ok();
}

std::string WeightFingerprint(const WeightSource& source, const ModelConfig& config) {
  // A sample of every layer's query and key projection: cheap for models of any size.
  constexpr std::size_t kSample = 4096;
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  const std::string shape =
      fmt::format("{} {} {} {} {} {}", config.architecture, config.n_layers, config.n_heads,
                  config.n_kv_heads, config.head_dim, config.rope.n_rot);
  XXH3_64bits_update(state, shape.data(), shape.size());
  for (int i = 0; i < config.n_layers; ++i) {
    for (const char* name : {".attn_q.weight", ".attn_k.weight"}) {
      const TensorView* t = source.Find("blk." + std::to_string(i) + name);
      if (t == nullptr) continue;
      XXH3_64bits_update(state, t->bytes.data(), std::min(kSample, t->bytes.size()));
    }
  }
  const XXH64_hash_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}", hash);
}

}  // namespace phasor
