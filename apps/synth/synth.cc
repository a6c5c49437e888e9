// phasor synth: a GGUF file with random weights in the sizes of a published model, for speed tests.
#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "formats/gguf_writer.h"
#include "synth/random_blocks.h"
#include "synth/shapes.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;

struct SynthFlags {
  std::string shape, out, weights = "q4_0";
  int layers = 0, heads = 0, kv_heads = 0, head_dim = 0, d_model = 0, d_ff = 0, vocab = 0;
  int64_t context = 0;
  uint64_t seed = 1;
  bool json = false;
};

std::vector<std::string> ShapeNames() {
  std::vector<std::string> names;
  for (const synth::Shape& s : synth::Shapes()) names.emplace_back(s.name);
  return names;
}

std::vector<std::string> WeightNames() {
  std::vector<std::string> names;
  for (const synth::DrawableType& t : synth::DrawableTypes()) names.emplace_back(t.name);
  return names;
}

synth::Shape ShapeOf(const SynthFlags& f) {
  synth::Shape shape{};
  for (const synth::Shape& s : synth::Shapes()) {
    if (f.shape == s.name) shape = s;
  }
  auto replace = [](int value, int* size) {
    if (value > 0) *size = value;
  };
  replace(f.layers, &shape.n_layers);
  replace(f.heads, &shape.n_heads);
  replace(f.kv_heads, &shape.n_kv_heads);
  replace(f.head_dim, &shape.head_dim);
  replace(f.d_model, &shape.d_model);
  replace(f.d_ff, &shape.d_ff);
  replace(f.vocab, &shape.n_vocab);
  if (f.context > 0) shape.n_ctx = f.context;
  return shape;
}

Status WriteTensors(const std::vector<synth::TensorPlan>& plan, int64_t total_bytes, uint64_t seed,
                    GgufWriter& writer) {
  constexpr int64_t kChunkElements = int64_t{1} << 18;  // a multiple of every block size
  ProgressBar bar("writing", std::max<int64_t>(1, total_bytes), "B");
  Rng rng(seed);
  std::vector<std::byte> buffer;
  int64_t done_bytes = 0;
  for (const synth::TensorPlan& t : plan) {
    const int64_t n = t.n_elements();
    for (int64_t at = 0; at < n; at += kChunkElements) {
      if (InterruptFlag::flag().load()) return Cancelled("synth: stopped by Ctrl-C");
      const int64_t count = std::min(kChunkElements, n - at);
      buffer.resize(RowBytes(t.dtype, count));
      if (t.sigma > 0) {
        synth::DrawWeights(t.dtype, t.sigma, count, rng, buffer.data());
      } else {
        const std::vector<float> ones(count, 1.0f);
        std::memcpy(buffer.data(), ones.data(), buffer.size());
      }
      PHASOR_RETURN_IF_ERROR(writer.Write(buffer));
      done_bytes += static_cast<int64_t>(buffer.size());
      bar.Set(done_bytes);
    }
  }
  return writer.Commit();
}

Result<Json> WriteModel(const SynthFlags& flags) {
  const synth::Shape shape = ShapeOf(flags);
  PHASOR_RETURN_IF_ERROR(synth::CheckShape(shape));
  DType weights = DType::kF32;
  for (const synth::DrawableType& t : synth::DrawableTypes()) {
    if (flags.weights == t.name) weights = t.dtype;
  }
  const auto start = std::chrono::steady_clock::now();
  const std::vector<synth::TensorPlan> plan = synth::PlanTensors(shape, weights);
  GgufHeader header = synth::MakeHeader(shape, weights, flags.seed);
  int64_t n_params = 0;
  for (const synth::TensorPlan& t : plan) {
    PHASOR_RETURN_IF_ERROR(header.AddTensor(t.name, t.dtype, t.dims));
    n_params += t.n_elements();
  }
  const int64_t bytes = header.data_bytes();
  PHASOR_ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::Create(flags.out, std::move(header)));
  PHASOR_RETURN_IF_ERROR(WriteTensors(plan, bytes, flags.seed, writer));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return Json{
      {"path", flags.out},          {"shape", shape.name},        {"like", shape.like},
      {"weights", flags.weights},   {"n_layers", shape.n_layers}, {"d_model", shape.d_model},
      {"d_ff", shape.d_ff},         {"n_heads", shape.n_heads},   {"n_kv_heads", shape.n_kv_heads},
      {"head_dim", shape.head_dim}, {"n_vocab", shape.n_vocab},   {"n_ctx_train", shape.n_ctx},
      {"n_params", n_params},       {"tensor_bytes", bytes},      {"seed", flags.seed},
      {"seconds", seconds}};
}

int Synth(const SynthFlags& flags) {
  InterruptFlag::Install();
  auto result = WriteModel(flags);
  if (!result.ok()) return Fail(result.status());
  const Json& j = *result;
  if (flags.json) {
    fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{}: random weights ({}) in the sizes of {}, {:.1f} M parameters, {}, {:.1f} s\n",
               OneLine(flags.out), flags.weights, j["like"].get<std::string>(),
               j["n_params"].get<double>() / 1e6, HumanBytes(j["tensor_bytes"].get<double>()),
               j["seconds"].get<double>());
  }
  return 0;
}

}  // namespace

void AddSynthCommand(CLI::App& app, int* exit_code) {
  auto f = std::make_shared<SynthFlags>();
  CLI::App* c = app.add_subcommand(
      "synth", "a GGUF file with random weights in the sizes of a model, for speed tests");
  c->add_option("--shape", f->shape, "whose sizes")->required()->check(OneOf(ShapeNames()));
  c->add_option("-o,--output", f->out, "file to write")->required();
  c->add_option("--weights", f->weights, "type of all matrices")
      ->check(OneOf(WeightNames()))
      ->capture_default_str();
  auto size = [&](const char* name, int* value, const char* help, int64_t most) {
    c->add_option(name, *value, std::string(help) + " instead of the shape's")
        ->check(Integer(1, most));
  };
  size("--layers", &f->layers, "layers", 1024);
  size("--heads", &f->heads, "query heads", 1024);
  size("--kv-heads", &f->kv_heads, "KV heads", 1024);
  size("--head-dim", &f->head_dim, "head size", 1024);
  size("--d-model", &f->d_model, "width of the residual stream", 1 << 17);
  size("--d-ff", &f->d_ff, "width of the feed-forward part", 1 << 20);
  size("--vocab", &f->vocab, "tokens", 1 << 24);
  c->add_option("--context", f->context, "context length that the file tells")
      ->check(Integer(1, int64_t{1} << 31));
  c->add_option("--seed", f->seed, "of the weights")->capture_default_str();
  c->add_flag("--json", f->json, "one JSON object");
  c->callback([f, exit_code] { *exit_code = Synth(*f); });
}

}  // namespace phasor::cli
