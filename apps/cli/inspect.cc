// phasor inspect FILE: what is inside, what will run how, and the memory plan before loading.
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/table.h"
#include "cli/command.h"
#include "engine/model_file.h"
#include "model/calibration.h"
#include "registry/weight_codec_table.h"
#include "simd/cpu.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  std::string model;
  CacheFlags cache;
  bool json = false, tensors = false, metadata = false;
};

Json ValueJson(const GgufValue& v) {
  constexpr std::size_t kMostElements = 4;
  Json out = Json::array();
  std::visit(
      [&](const auto& data) {
        for (std::size_t i = 0; i < data.size() && (i < kMostElements || !v.is_array); ++i) {
          out.push_back(data[i]);
        }
      },
      v.data);
  if (!v.is_array) return out.empty() ? Json() : out[0];
  if (v.size() > kMostElements) out.push_back(fmt::format("... {} in all", v.size()));
  return out;
}

Json MetadataJson(const ModelFile& file) {
  Json out = Json::object();
  if (file.hf != nullptr) return Json::parse(file.hf->config_json(), nullptr, false);
  for (const auto& [key, value] : file.gguf->metadata()) out[key] = ValueJson(value);
  return out;
}

struct TypeCount {
  int64_t tensors = 0, elements = 0;
  std::size_t bytes = 0;
  bool supported = true;
};

std::map<std::string, TypeCount> CountTypes(const ModelFile& file) {
  std::map<std::string, TypeCount> types;
  for (const TensorView& t : file.tensors()) {
    TypeCount& c = types[GgufTypeName(t.gguf_type)];
    ++c.tensors;
    c.elements += t.n_elements();
    c.bytes += t.bytes.size();
    c.supported = t.supported();
  }
  return types;
}

std::string Kernel(const std::string& type_name, CpuLevel level) {
  for (const WeightCodecInfo* w : WeightCodecs()) {
    if (type_name != GetDTypeInfo(w->dtype).name) continue;
    const std::string how = w->is_float ? "float products" : "int8 activations, integer products";
    return how + ", " + CpuLevelName(level);
  }
  return "not supported";
}

// The plan: cache bytes for a few context lengths and cache types.
Result<Json> MemoryPlan(const ModelConfig& config, const Calibration* calibration,
                        const CacheFlags& flags) {
  std::vector<std::pair<std::string, std::string>> types = {{flags.type_k, flags.type_v}};
  for (const char* t : {"f16", "q8_0", "q4_0"}) {
    if (flags.type_k != t || flags.type_v != t) types.emplace_back(t, t);
  }
  std::vector<int64_t> lengths;
  const int64_t longest = std::max(flags.ctx, config.n_ctx_train);
  for (int64_t n = 4096; n < longest && lengths.size() < 6; n *= 4) lengths.push_back(n);
  lengths.push_back(longest);
  Json plan = Json::array();
  for (const auto& [k, v] : types) {
    for (int64_t n : lengths) {
      SessionOptions o = ToSessionOptions(flags);
      o.type_k = k;
      o.type_v = v;
      auto bytes = EstimateCacheBytes(config, calibration, o, n);
      if (!bytes.ok()) {
        // The user's own choice must work; a comparison type that cannot hold this head is left
        // out.
        if (k == flags.type_k && v == flags.type_v) return bytes.status();
        break;
      }
      plan.push_back({{"type_k", k}, {"type_v", v}, {"n_ctx", n}, {"cache_bytes", *bytes}});
    }
  }
  return plan;
}

Json TensorsJson(const ModelFile& file) {
  Json list = Json::array();
  for (const TensorView& t : file.tensors()) {
    Json dims = Json::array();
    for (int d = 0; d < t.n_dims; ++d) dims.push_back(t.dims[d]);
    list.push_back({{"name", t.name},
                    {"type", GgufTypeName(t.gguf_type)},
                    {"dims", dims},
                    {"bytes", t.bytes.size()}});
  }
  return list;
}

Json ConfigJson(const ModelConfig& c) {
  return {{"architecture", c.architecture},
          {"name", c.name},
          {"n_layers", c.n_layers},
          {"d_model", c.d_model},
          {"n_heads", c.n_heads},
          {"n_kv_heads", c.n_kv_heads},
          {"head_dim", c.head_dim},
          {"n_rot", c.rope.n_rot},
          {"rope_method", c.rope.method},
          {"rope_theta", c.rope.theta_base},
          {"pairing", c.pairing == RopePairing::kInterleaved ? "interleaved" : "half-split"},
          {"d_ff", c.d_ff},
          {"n_vocab", c.n_vocab},
          {"n_ctx_train", c.n_ctx_train},
          {"tied_embeddings", c.tied_embeddings},
          {"qkv_bias", c.has_qkv_bias},
          {"qk_norm", c.has_qk_norm},
          {"sliding_window", c.sliding_window}};
}

// What the file holds, whether phasor can run it or not.
Json DescribeFile(const InspectFlags& flags, const ModelFile& file) {
  Json j;
  j["path"] = flags.model;
  j["format"] = file.gguf != nullptr ? fmt::format("GGUF v{}", file.gguf->version())
                                     : std::string("Hugging Face folder");
  j["parts"] = file.gguf != nullptr ? file.gguf->n_parts() : file.hf->n_parts();
  j["file_bytes"] = file.size_bytes();
  j["n_params"] = file.CountParams();
  j["cpu"] = CpuName();
  j["cpu_level"] = CpuLevelName(ActiveCpuLevel());
  j["types"] = Json::array();
  for (const auto& [name, c] : CountTypes(file)) {
    j["types"].push_back({{"type", name},
                          {"tensors", c.tensors},
                          {"elements", c.elements},
                          {"bytes", c.bytes},
                          {"runs_as", Kernel(name, ActiveCpuLevel())}});
  }
  if (flags.metadata) j["metadata"] = MetadataJson(file);
  if (flags.tensors) j["tensors"] = TensorsJson(file);
  return j;
}

// The calibration that `run` would use; null when there is none. One that is there but damaged or
// made for another model stops `run`, so it is an error here as well.
Result<std::unique_ptr<Calibration>> FindCalibration(const std::string& model_path,
                                                     const ModelConfig& config,
                                                     const std::string& fingerprint) {
  for (const std::string& path : CalibrationPaths(model_path, fingerprint)) {
    if (!FileExists(path)) continue;
    PHASOR_ASSIGN_OR_RETURN(Calibration read, Calibration::Read(path));
    PHASOR_RETURN_IF_ERROR(read.CheckFits(config, fingerprint));
    return std::make_unique<Calibration>(std::move(read));
  }
  return std::unique_ptr<Calibration>();
}

struct Runnable {
  ModelConfig config;
  std::unique_ptr<Calibration> calibration;  // may be null
};

// How the file will run. The first thing that stands in the way is the error; what is known by then
// is in *j.
Result<Runnable> DescribeModel(const InspectFlags& flags, const ModelFile& file, Json* j) {
  Runnable out;
  PHASOR_ASSIGN_OR_RETURN(out.config, file.ReadConfig());
  const ModelConfig& config = out.config;
  (*j)["model"] = ConfigJson(config);
  PHASOR_RETURN_IF_ERROR(CheckWeights(file.Weights(), config));
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, file.LoadTokenizer());
  (*j)["tokenizer"] = {{"kind", tokenizer->kind()},
                       {"n_vocab", tokenizer->vocab_size()},
                       {"add_bos", tokenizer->add_bos()},
                       {"chat_template", !tokenizer->chat_template().empty()}};
  PHASOR_RETURN_IF_ERROR(CheckVocabulary(*tokenizer, config));
  const std::string fingerprint = WeightFingerprint(file.Weights(), config);
  (*j)["fingerprint"] = fingerprint;
  (*j)["calibration"] = Json();
  PHASOR_ASSIGN_OR_RETURN(out.calibration, FindCalibration(flags.model, config, fingerprint));
  if (out.calibration != nullptr) (*j)["calibration"] = out.calibration->source;
  return out;
}

void Print(const Json& j) {
  fmt::print("{}: {}, {} part(s), {}, {:.1f} M parameters\n", j["path"].get<std::string>(),
             j["format"].get<std::string>(), j["parts"].get<int>(),
             HumanBytes(j["file_bytes"].get<double>()), j["n_params"].get<double>() / 1e6);
  if (j.contains("model")) {
    for (const auto& [key, value] : j["model"].items())
      fmt::print("  {:<16} {}\n", key, value.dump());
  }
  if (j.contains("tokenizer")) fmt::print("  {:<16} {}\n", "tokenizer", j["tokenizer"].dump());
  if (j.contains("fingerprint")) {
    fmt::print("  {:<16} {}\n  {:<16} {}\n", "fingerprint", j["fingerprint"].get<std::string>(),
               "calibration", j["calibration"].is_null() ? "none" : j["calibration"].dump());
  }
  fmt::print("\nWhat runs how on this CPU ({}, {}):\n", j["cpu"].get<std::string>(),
             j["cpu_level"].get<std::string>());
  Table types({{"type", Table::Align::kLeft},
               {"tensors", Table::Align::kRight},
               {"size", Table::Align::kRight},
               {"runs as", Table::Align::kLeft}});
  for (const Json& t : j["types"]) {
    types.AddRow({t["type"].get<std::string>(), t["tensors"].dump(),
                  HumanBytes(t["bytes"].get<double>()), t["runs_as"].get<std::string>()});
  }
  fmt::print("{}", types.Render(Table::Format::kPlain));
  if (j.contains("memory_plan")) {
    fmt::print("\nMemory plan (weights {} and the cache):\n",
               HumanBytes(j["file_bytes"].get<double>()));
    Table plan({{"-ctk", Table::Align::kLeft},
                {"-ctv", Table::Align::kLeft},
                {"context", Table::Align::kRight},
                {"cache", Table::Align::kRight}});
    for (const Json& p : j["memory_plan"]) {
      plan.AddRow({p["type_k"].get<std::string>(), p["type_v"].get<std::string>(),
                   p["n_ctx"].dump(), HumanBytes(p["cache_bytes"].get<double>())});
    }
    fmt::print("{}", plan.Render(Table::Format::kPlain));
  }
  for (const char* key : {"metadata", "tensors"}) {
    if (!j.contains(key)) continue;
    fmt::print("\n{}:\n", key);
    for (const auto& [name, value] : j[key].items()) {
      fmt::print("  {}{}\n", j[key].is_object() ? name + " = " : "",
                 value.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
  }
  if (!j["runs"].get<bool>()) fmt::print("\nCannot run: {}\n", j["reason"].get<std::string>());
}

int Inspect(const InspectFlags& flags) {
  ModelFlags model;
  model.model = flags.model;
  auto path = ModelPath(model);
  if (!path.ok()) return Fail(path.status());
  InspectFlags with_path = flags;
  with_path.model = *path;
  auto file = ModelFile::Open(*path);
  if (!file.ok()) return Fail(file.status());
  Json j = DescribeFile(with_path, *file);
  auto runs = DescribeModel(with_path, *file, &j);
  // A file that cannot run is still described, and what stands in the way is named.
  j["runs"] = runs.ok();
  if (runs.ok()) {
    auto plan = MemoryPlan(runs->config, runs->calibration.get(), flags.cache);
    if (!plan.ok()) return Fail(plan.status());
    j["memory_plan"] = std::move(*plan);
  } else {
    j["reason"] = runs.status().message();
  }
  if (flags.json) {
    fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    Print(j);
  }
  return runs.ok() ? 0 : 1;
}

}  // namespace

void AddInspectCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* c = app.add_subcommand("inspect", "what is in a model file and what it will need");
  c->add_option("model,-m,--model", flags->model, "GGUF file or Hugging Face folder");
  AddCacheFlags(c, &flags->cache);
  c->add_flag("--tensors", flags->tensors, "list every tensor");
  c->add_flag("--metadata", flags->metadata, "list every metadata key");
  c->add_flag("--json", flags->json, "one JSON object");
  c->callback([flags, exit_code] { *exit_code = Inspect(*flags); });
}

}  // namespace phasor::cli
