#include "model/model_config.h"

#include <cmath>

#include <nlohmann/json.hpp>

#include "formats/gguf.h"
#include "formats/hf_folder.h"

namespace phasor {
namespace {

constexpr const char* kArchitectures[] = {"llama", "qwen2", "qwen3"};

Status UnknownArchitecture(const std::string& where, const std::string& found) {
  std::string known;
  for (const char* a : kArchitectures) known += (known.empty() ? "" : ", ") + std::string(a);
  return Unsupported(where + ": expected one of " + known + ", found " + found);
}

// Limits that no real model reaches; they keep products of sizes far from overflow.
Status CheckRange(const std::string& what, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    return DataCorrupt(what + ": expected " + std::to_string(low) + " to " + std::to_string(high) +
                       ", found " + std::to_string(value));
  }
  return Status::Ok();
}

Status CheckConfig(const std::string& where, const ModelConfig& c) {
  auto at = [&](const char* name) { return where + ": " + name; };
  PHASOR_RETURN_IF_ERROR(CheckRange(at("layers"), c.n_layers, 1, 1024));
  PHASOR_RETURN_IF_ERROR(CheckRange(at("embedding length"), c.d_model, 1, 1 << 17));
  PHASOR_RETURN_IF_ERROR(CheckRange(at("attention heads"), c.n_heads, 1, 1024));
  PHASOR_RETURN_IF_ERROR(CheckRange(at("KV heads"), c.n_kv_heads, 1, c.n_heads));
  PHASOR_RETURN_IF_ERROR(CheckRange(at("head size"), c.head_dim, 2, 1024));
  PHASOR_RETURN_IF_ERROR(CheckRange(at("feed-forward length"), c.d_ff, 1, 1 << 20));
  PHASOR_RETURN_IF_ERROR(CheckRange(at("context length"), c.n_ctx_train, 1, int64_t{1} << 32));
  PHASOR_RETURN_IF_ERROR(CheckRange(at("rotated dimensions"), c.rope.n_rot, 0, c.head_dim));
  if (c.n_heads % c.n_kv_heads != 0) {
    return DataCorrupt(where + ": expected attention heads to be a multiple of KV heads, found " +
                       std::to_string(c.n_heads) + " and " + std::to_string(c.n_kv_heads));
  }
  if (c.head_dim % 2 != 0 || c.rope.n_rot % 2 != 0) {
    return Unsupported(where + ": expected an even head size and even rotated dimensions, found " +
                       std::to_string(c.head_dim) + " and " + std::to_string(c.rope.n_rot));
  }
  if (!(c.rms_eps > 0) || !(c.rms_eps < 1)) {
    return DataCorrupt(where + ": RMS norm epsilon: expected a number between 0 and 1, found " +
                       std::to_string(c.rms_eps));
  }
  return Status::Ok();
}

// A key that may be a scalar or an array with one equal entry per layer.
Result<int64_t> UniformInt(const GgufFile& file, const std::string& key) {
  auto scalar = file.GetInt(key);
  if (scalar.ok() || scalar.status().code() == StatusCode::kNotFound) return scalar;
  PHASOR_ASSIGN_OR_RETURN(std::vector<int64_t> values, file.GetIntArray(key));
  if (values.empty()) return DataCorrupt("gguf: " + key + ": expected a value, found empty array");
  for (int64_t v : values) {
    if (v != values[0]) {
      return Unsupported("gguf: " + key + ": layers that differ (" + std::to_string(values[0]) +
                         " and " + std::to_string(v) + ") are not supported");
    }
  }
  return values[0];
}

Result<int64_t> IntOr(const GgufFile& file, const std::string& key, int64_t fallback) {
  if (!file.Has(key)) return fallback;
  return UniformInt(file, key);
}

Result<double> FloatOr(const GgufFile& file, const std::string& key, double fallback) {
  if (!file.Has(key)) return fallback;
  return file.GetFloat(key);
}

// A tensor of one frequency factor per pair; leaves *out empty where the file has none.
Status ReadGgufFactors(const GgufFile& file, const char* name, int64_t n_pairs,
                       std::vector<float>* out) {
  const TensorView* t = file.FindTensor(name);
  if (t == nullptr) return Status::Ok();
  if (t->gguf_type != static_cast<uint32_t>(DType::kF32) || t->n_elements() != n_pairs) {
    return DataCorrupt("gguf: " + std::string(name) + ": expected " + std::to_string(n_pairs) +
                       " F32 values, found " + std::to_string(t->n_elements()) + " of type " +
                       GgufTypeName(t->gguf_type));
  }
  const auto* values = reinterpret_cast<const float*>(t->bytes.data());
  out->assign(values, values + n_pairs);
  return Status::Ok();
}

// The method that the file's type stands for. Files with LongRoPE's factors name no type or
// "longrope"; "none" is a file's word for plain rope.
Result<std::string> GgufRopeMethod(const GgufFile& file, const std::string& key,
                                   const RopeParams& rope) {
  std::string type;
  if (file.Has(key)) {
    PHASOR_ASSIGN_OR_RETURN(type, file.GetString(key));
  }
  const bool has_long = !rope.long_factors.empty(), has_short = !rope.short_factors.empty();
  if (has_long != has_short || (type == "longrope" && !has_long)) {
    return DataCorrupt(std::string("gguf: ") +
                       (has_long ? "rope_factors_short.weight" : "rope_factors_long.weight") +
                       ": expected this tensor" +
                       (has_long || has_short ? " beside the other" : "") + ", found none");
  }
  const bool unnamed = type.empty() || type == "none";
  if (type == "longrope" || (has_long && unnamed)) return std::string("longrope");
  if (has_long) {
    return Unsupported("gguf: " + key +
                       ": expected longrope for a file with frequency factors "
                       "for long contexts, found " +
                       type);
  }
  if (unnamed) return std::string(type.empty() && rope.factor != 1.0 ? "linear" : "rope");
  if (type == "linear" || type == "yarn") return type;
  return Unsupported("gguf: " + key + ": expected none, linear, yarn or longrope, found " + type);
}

Status ReadGgufRope(const GgufFile& file, const std::string& arch, ModelConfig* c) {
  const std::string rope = arch + ".rope.", scaling = rope + "scaling.";
  PHASOR_ASSIGN_OR_RETURN(int64_t n_rot, IntOr(file, rope + "dimension_count", c->head_dim));
  PHASOR_RETURN_IF_ERROR(CheckRange("gguf: " + rope + "dimension_count", n_rot, 0, c->head_dim));
  c->rope.n_rot = static_cast<int>(n_rot);
  PHASOR_ASSIGN_OR_RETURN(c->rope.theta_base, FloatOr(file, rope + "freq_base", 10000.0));
  PHASOR_ASSIGN_OR_RETURN(double old_scale, FloatOr(file, rope + "scale_linear", 1.0));
  PHASOR_ASSIGN_OR_RETURN(c->rope.factor, FloatOr(file, scaling + "factor", old_scale));
  PHASOR_ASSIGN_OR_RETURN(c->rope.original_context,
                          IntOr(file, scaling + "original_context_length", c->n_ctx_train));
  PHASOR_ASSIGN_OR_RETURN(c->rope.beta_fast, FloatOr(file, scaling + "yarn_beta_fast", 32.0));
  PHASOR_ASSIGN_OR_RETURN(c->rope.beta_slow, FloatOr(file, scaling + "yarn_beta_slow", 1.0));
  PHASOR_RETURN_IF_ERROR(
      ReadGgufFactors(file, "rope_freqs.weight", n_rot / 2, &c->rope.freq_factors));
  PHASOR_RETURN_IF_ERROR(
      ReadGgufFactors(file, "rope_factors_long.weight", n_rot / 2, &c->rope.long_factors));
  PHASOR_RETURN_IF_ERROR(
      ReadGgufFactors(file, "rope_factors_short.weight", n_rot / 2, &c->rope.short_factors));
  PHASOR_ASSIGN_OR_RETURN(c->rope.method, GgufRopeMethod(file, scaling + "type", c->rope));
  // attn_factor multiplies YaRN's own 0.1 ln(factor) + 1; for longrope it is the whole factor.
  PHASOR_ASSIGN_OR_RETURN(double attn_factor, FloatOr(file, scaling + "attn_factor", 1.0));
  if (c->rope.method == "longrope") {
    if (!(attn_factor > 0) || !std::isfinite(attn_factor)) {
      return DataCorrupt("gguf: " + scaling + "attn_factor: expected a positive number, found " +
                         std::to_string(attn_factor));
    }
    c->rope.attention_factor = attn_factor;
  } else if (c->rope.method == "yarn" && c->rope.factor >= 1 && attn_factor > 0) {
    c->rope.attention_factor = attn_factor * (0.1 * std::log(c->rope.factor) + 1.0);
  }
  return Status::Ok();
}

}  // namespace

Result<ModelConfig> ReadModelConfig(const GgufFile& file) {
  ModelConfig c;
  PHASOR_ASSIGN_OR_RETURN(c.architecture, file.GetString("general.architecture"));
  bool known = false;
  for (const char* a : kArchitectures) known = known || c.architecture == a;
  if (!known) return UnknownArchitecture("gguf: general.architecture", c.architecture);
  if (file.Has("general.name")) {
    PHASOR_ASSIGN_OR_RETURN(c.name, file.GetString("general.name"));
  }
  const std::string arch = c.architecture, attention = arch + ".attention.";
  auto read = [&](const std::string& key, int* out) -> Status {
    PHASOR_ASSIGN_OR_RETURN(int64_t value, UniformInt(file, key));
    PHASOR_RETURN_IF_ERROR(CheckRange("gguf: " + key, value, 1, 1 << 20));
    *out = static_cast<int>(value);
    return Status::Ok();
  };
  PHASOR_RETURN_IF_ERROR(read(arch + ".block_count", &c.n_layers));
  PHASOR_RETURN_IF_ERROR(read(arch + ".embedding_length", &c.d_model));
  PHASOR_RETURN_IF_ERROR(read(attention + "head_count", &c.n_heads));
  PHASOR_RETURN_IF_ERROR(read(arch + ".feed_forward_length", &c.d_ff));
  c.n_kv_heads = c.n_heads;
  if (file.Has(attention + "head_count_kv")) {
    PHASOR_RETURN_IF_ERROR(read(attention + "head_count_kv", &c.n_kv_heads));
  }
  PHASOR_ASSIGN_OR_RETURN(int64_t key_length,
                          IntOr(file, attention + "key_length", c.d_model / c.n_heads));
  PHASOR_ASSIGN_OR_RETURN(int64_t value_length,
                          IntOr(file, attention + "value_length", key_length));
  if (key_length != value_length) {
    return Unsupported("gguf: key and value lengths that differ are not supported, found " +
                       std::to_string(key_length) + " and " + std::to_string(value_length));
  }
  PHASOR_RETURN_IF_ERROR(CheckRange("gguf: " + attention + "key_length", key_length, 2, 1024));
  c.head_dim = static_cast<int>(key_length);
  PHASOR_ASSIGN_OR_RETURN(c.n_ctx_train, file.GetInt(arch + ".context_length"));
  PHASOR_ASSIGN_OR_RETURN(double eps, FloatOr(file, attention + "layer_norm_rms_epsilon", 1e-5));
  c.rms_eps = static_cast<float>(eps);
  PHASOR_ASSIGN_OR_RETURN(c.sliding_window, IntOr(file, attention + "sliding_window", 0));
  PHASOR_ASSIGN_OR_RETURN(int64_t experts, IntOr(file, arch + ".expert_count", 0));
  if (experts > 0) {
    return Unsupported("gguf: mixture-of-experts models are not supported, found " +
                       std::to_string(experts) + " experts");
  }
  c.pairing = arch == "llama" ? RopePairing::kInterleaved : RopePairing::kHalfSplit;
  PHASOR_RETURN_IF_ERROR(ReadGgufRope(file, arch, &c));
  const TensorView* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) return DataCorrupt("gguf: token_embd.weight: expected, found none");
  PHASOR_RETURN_IF_ERROR(CheckRange("gguf: vocabulary", embedding->n_rows(), 1, 1 << 24));
  c.n_vocab = static_cast<int>(embedding->n_rows());
  c.tied_embeddings = file.FindTensor("output.weight") == nullptr;
  c.has_qkv_bias = file.FindTensor("blk.0.attn_q.bias") != nullptr;
  c.has_qk_norm = file.FindTensor("blk.0.attn_q_norm.weight") != nullptr;
  PHASOR_RETURN_IF_ERROR(CheckConfig("gguf", c));
  return c;
}

namespace {

using Json = nlohmann::json;

// config.json access without exceptions: missing or null gives the fallback, a wrong type an error.
Status ReadJson(const Json& j, const char* key, double* out) {
  auto it = j.find(key);
  if (it == j.end() || it->is_null()) return Status::Ok();
  if (!it->is_number()) {
    return DataCorrupt(std::string("config.json: ") + key + ": expected a number, found " +
                       it->type_name());
  }
  *out = it->get<double>();
  return Status::Ok();
}

Status ReadJson(const Json& j, const char* key, int64_t* out) {
  double value = static_cast<double>(*out);
  PHASOR_RETURN_IF_ERROR(ReadJson(j, key, &value));
  if (!(value >= -1e15 && value <= 1e15)) {
    return DataCorrupt(std::string("config.json: ") + key + ": number out of range");
  }
  *out = static_cast<int64_t>(value);
  return Status::Ok();
}

Status ReadJson(const Json& j, const char* key, std::vector<float>* out) {
  auto it = j.find(key);
  if (it == j.end() || it->is_null()) return Status::Ok();
  bool good = it->is_array();
  for (const Json& value : good ? *it : Json::array()) good = good && value.is_number();
  if (!good)
    return DataCorrupt(std::string("config.json: ") + key + ": expected a list of numbers");
  *out = it->get<std::vector<float>>();
  return Status::Ok();
}

// Ids of position methods by config.json's rope type.
Result<std::string> HfRopeMethod(const std::string& type) {
  if (type == "default") return std::string("rope");
  if (type == "dynamic") return std::string("dynamic_ntk");
  if (type == "su") return std::string("longrope");  // the first Phi-3 files
  for (const char* same : {"linear", "yarn", "longrope", "llama3"}) {
    if (type == same) return type;
  }
  return Unsupported(
      "config.json: rope type: expected default, linear, dynamic, yarn, longrope or llama3, "
      "found " +
      type);
}

// The fields of rope_scaling or rope_parameters, whatever method reads them later.
Status ReadHfScaling(const Json& scaling, RopeParams* rope) {
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "rope_theta", &rope->theta_base));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "factor", &rope->factor));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "low_freq_factor", &rope->low_freq_factor));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "high_freq_factor", &rope->high_freq_factor));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "beta_fast", &rope->beta_fast));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "beta_slow", &rope->beta_slow));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "attention_factor", &rope->attention_factor));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "short_factor", &rope->short_factors));
  PHASOR_RETURN_IF_ERROR(ReadJson(scaling, "long_factor", &rope->long_factors));
  PHASOR_RETURN_IF_ERROR(
      ReadJson(scaling, "original_max_position_embeddings", &rope->original_context));
  std::string type = "default";
  for (const char* key : {"type", "rope_type"}) {
    auto it = scaling.find(key);
    if (it != scaling.end() && it->is_string()) type = it->get<std::string>();
  }
  PHASOR_ASSIGN_OR_RETURN(rope->method, HfRopeMethod(type));
  return Status::Ok();
}

Status ReadHfRope(const Json& config, ModelConfig* c) {
  // Newer files keep everything in rope_parameters, older ones in rope_scaling and rope_theta.
  const Json* scaling = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    auto it = config.find(key);
    if (scaling == nullptr && it != config.end() && it->is_object()) scaling = &*it;
  }
  double partial = 1.0;
  PHASOR_RETURN_IF_ERROR(ReadJson(config, "rope_theta", &c->rope.theta_base));
  PHASOR_RETURN_IF_ERROR(ReadJson(config, "partial_rotary_factor", &partial));
  c->rope.original_context = c->n_ctx_train;
  PHASOR_RETURN_IF_ERROR(
      ReadJson(config, "original_max_position_embeddings", &c->rope.original_context));
  if (scaling != nullptr) {
    PHASOR_RETURN_IF_ERROR(ReadJson(*scaling, "partial_rotary_factor", &partial));
    PHASOR_RETURN_IF_ERROR(ReadHfScaling(*scaling, &c->rope));
  }
  // Files with both contexts mean their ratio, whatever else they say.
  if (c->rope.method == "longrope" && c->rope.original_context > 0 &&
      c->rope.original_context != c->n_ctx_train) {
    c->rope.factor =
        static_cast<double>(c->n_ctx_train) / static_cast<double>(c->rope.original_context);
  }
  if (!(partial > 0 && partial <= 1)) {
    return DataCorrupt("config.json: partial_rotary_factor: expected (0, 1], found " +
                       std::to_string(partial));
  }
  c->rope.n_rot = static_cast<int>(c->head_dim * partial);
  return Status::Ok();
}

}  // namespace

Result<ModelConfig> ReadModelConfig(const HfFolder& folder) {
  const Json j = Json::parse(folder.config_json(), nullptr, false);
  if (!j.is_object()) return DataCorrupt("config.json: expected a JSON object");
  ModelConfig c;
  auto type = j.find("model_type");
  const std::string found =
      type != j.end() && type->is_string() ? type->get<std::string>() : "none";
  c.architecture = found == "mistral" ? "llama" : found;
  bool known = false;
  for (const char* a : kArchitectures) known = known || c.architecture == a;
  if (!known) return UnknownArchitecture("config.json: model_type", found);
  int64_t layers = 0, d_model = 0, heads = 0, d_ff = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  double eps = 1e-6;
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "num_hidden_layers", &layers));
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "hidden_size", &d_model));
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "num_attention_heads", &heads));
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "intermediate_size", &d_ff));
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "vocab_size", &vocab));
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "max_position_embeddings", &c.n_ctx_train));
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "rms_norm_eps", &eps));
  PHASOR_RETURN_IF_ERROR(CheckRange("config.json: num_hidden_layers", layers, 1, 1024));
  PHASOR_RETURN_IF_ERROR(CheckRange("config.json: hidden_size", d_model, 1, 1 << 17));
  PHASOR_RETURN_IF_ERROR(CheckRange("config.json: num_attention_heads", heads, 1, 1024));
  PHASOR_RETURN_IF_ERROR(CheckRange("config.json: intermediate_size", d_ff, 1, 1 << 20));
  PHASOR_RETURN_IF_ERROR(CheckRange("config.json: vocab_size", vocab, 1, 1 << 24));
  kv_heads = heads;
  head_dim = d_model / heads;
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "num_key_value_heads", &kv_heads));
  PHASOR_RETURN_IF_ERROR(ReadJson(j, "head_dim", &head_dim));
  PHASOR_RETURN_IF_ERROR(CheckRange("config.json: num_key_value_heads", kv_heads, 1, heads));
  PHASOR_RETURN_IF_ERROR(CheckRange("config.json: head_dim", head_dim, 2, 1024));
  c.n_layers = static_cast<int>(layers);
  c.d_model = static_cast<int>(d_model);
  c.n_heads = static_cast<int>(heads);
  c.n_kv_heads = static_cast<int>(kv_heads);
  c.head_dim = static_cast<int>(head_dim);
  c.d_ff = static_cast<int>(d_ff);
  c.n_vocab = static_cast<int>(vocab);
  c.rms_eps = static_cast<float>(eps);
  if (auto it = j.find("use_sliding_window"); it == j.end() || it->is_null() || *it == true) {
    if (c.architecture == "llama") {
      PHASOR_RETURN_IF_ERROR(ReadJson(j, "sliding_window", &c.sliding_window));
    }
  } else if (*it != false) {
    return DataCorrupt("config.json: use_sliding_window: expected true or false");
  }
  if (auto it = j.find("hidden_act"); it != j.end() && it->is_string() && *it != "silu") {
    return Unsupported("config.json: hidden_act: expected silu, found " + it->get<std::string>());
  }
  c.pairing = RopePairing::kHalfSplit;
  PHASOR_RETURN_IF_ERROR(ReadHfRope(j, &c));
  c.tied_embeddings = folder.FindTensor("lm_head.weight") == nullptr;
  c.has_qkv_bias = folder.FindTensor("model.layers.0.self_attn.q_proj.bias") != nullptr;
  c.has_qk_norm = folder.FindTensor("model.layers.0.self_attn.q_norm.weight") != nullptr;
  PHASOR_RETURN_IF_ERROR(CheckConfig("config.json", c));
  return c;
}

}  // namespace phasor
