#include "cli/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>

#include "base/file.h"
#include "base/progress.h"
#include "contracts/kv_codec.h"
#include "model/calibration.h"
#include "registry/kv_codec_table.h"
#include "simd/cpu.h"

namespace phasor::cli {
namespace {

// A value as an error message shows it: not the whole of a long one.
std::string Shown(const std::string& text) {
  constexpr std::size_t kMost = 60;
  if (text.empty()) return "an empty text";
  return text.size() > kMost ? text.substr(0, kMost) + "..." : text;
}

// Whether a list of cache types ("a,b*2,c/d") has this one in it.
bool Names(const std::string& types, const std::string& id) {
  constexpr const char* kSeparators = ",/*";
  for (std::size_t at = types.find(id); at != std::string::npos; at = types.find(id, at + 1)) {
    const std::size_t end = std::min(types.find_first_of(kSeparators, at), types.size());
    const bool begins = at == 0 || std::strchr(kSeparators, types[at - 1]) != nullptr;
    if (begins && end - at == id.size()) return true;
  }
  return false;
}

}  // namespace

void AddModelFlags(CLI::App* command, ModelFlags* f, bool positional) {
  const std::string names = positional ? "-m,--model,model" : "-m,--model";
  command->add_option(names, f->model,
                      "GGUF file or Hugging Face folder (default: the model `make model` gets)");
  command->add_option("-t,--threads", f->threads, "threads (0: one per processor)")
      ->envname("LLAMA_ARG_THREADS")
      ->check(Integer(0, 1024));
  command
      ->add_option("--precision", f->precision,
                   "int8: activations in 8 bit against quantized weights; f32: all in float")
      ->check(OneOf({"int8", "f32"}))
      ->capture_default_str();
  command
      ->add_option("--cpu-level", f->cpu_level,
                   "auto, scalar, avx2, avx512_vnni, avx512, neon or neon_dot")
      ->capture_default_str();
  command->add_option("--calibration", f->calibration,
                      "calibration file for -ctk frame4, frame3, polar");
  command->add_flag("--no-calibration", f->no_calibration, "ignore calibration files");
}

void AddCacheFlags(CLI::App* command, CacheFlags* f) {
  command
      ->add_option("-c,--ctx-size", f->ctx, "context in tokens (0: what the model was trained on)")
      ->envname("LLAMA_ARG_CTX_SIZE")
      ->check(Integer(0));
  command
      ->add_option(
          "--cache-type-k", f->type_k,
          "-ctk: cache type of keys, or a list with one per layer (a*2,b: a twice, then b;\n"
          "c/d: c for a layer's first KV head, d for the others); see phasor methods")
      ->envname("LLAMA_ARG_CACHE_TYPE_K")
      ->capture_default_str();
  command->add_option("--cache-type-v", f->type_v, "-ctv: cache type of values")
      ->envname("LLAMA_ARG_CACHE_TYPE_V")
      ->capture_default_str();
  command->add_option("--sink", f->sink, "first tokens kept in 16 bit")
      ->capture_default_str()
      ->check(Integer(0, kPageTokens));
  command->add_option("--recent", f->recent, "newest tokens kept in 16 bit (up to 127 more)")
      ->capture_default_str()
      ->check(Integer(0, 1 << 20));
  command->add_option("-b,--batch-size", f->batch, "tokens per prefill step")
      ->capture_default_str()
      ->check(Integer(1, 65536));
}

Result<std::string> ModelPath(const ModelFlags& flags) {
  if (!flags.model.empty()) return flags.model;
  const std::string path = UserCacheDir() + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!FileExists(path)) {
    return NotFound("model: expected a file or folder with -m, or the default model at " + path +
                    "; `make model` gets it");
  }
  return path;
}

Result<std::unique_ptr<LoadedModel>> LoadModel(const ModelFlags& flags) {
  PHASOR_RETURN_IF_ERROR(SetCpuLevel(flags.cpu_level));
  LoadOptions options;
  PHASOR_ASSIGN_OR_RETURN(options.path, ModelPath(flags));
  options.n_threads = flags.threads;
  options.precision = flags.precision == "f32" ? MatMulPrecision::kF32 : MatMulPrecision::kInt8;
  options.calibration_path = flags.calibration;
  options.use_calibration = !flags.no_calibration;
  std::unique_ptr<ProgressBar> bar;
  options.on_progress = [&](int64_t done, int64_t total) {
    if (bar == nullptr) bar = std::make_unique<ProgressBar>("loading", total, "B");
    bar->Set(done);
  };
  return LoadedModel::Load(options);
}

SessionOptions ToSessionOptions(const CacheFlags& f) {
  SessionOptions o;
  o.n_ctx = f.ctx;
  o.type_k = f.type_k;
  o.type_v = f.type_v;
  o.n_sink = f.sink;
  o.n_recent = f.recent;
  o.n_batch = f.batch;
  return o;
}

std::string CalibrationNotice(const LoadedModel& model, const std::string& type_k) {
  for (const KvCodecInfo& info : KvCodecs()) {
    if (!info.uses_calibration || info.for_values) continue;  // those have no widths for keys
    if (!Names(type_k, info.id)) continue;
    if (model.calibration() != nullptr && model.calibration()->Find(info.id) != nullptr) continue;
    return fmt::format(
        "cache: no calibration for this model and {}, so all of a key gets the same width; "
        "`phasor calibrate` makes one in seconds",
        info.id);
  }
  return "";
}

CLI::Validator Integer(int64_t low, int64_t high) {
  const bool bounded = high != INT64_MAX;
  const std::string range =
      bounded ? fmt::format("from {} to {}", low, high) : fmt::format("of at least {}", low);
  return CLI::Validator(
      [low, high, range](const std::string& text) -> std::string {
        int64_t value = 0;
        const char* end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc() && stop == end && value >= low && value <= high) return "";
        return fmt::format("expected an integer {}, found {}", range, Shown(text));
      },
      bounded ? fmt::format("{}..{}", low, high) : fmt::format(">= {}", low));
}

CLI::Validator Number(double low, double high) {
  const bool bounded = std::isfinite(low) && std::isfinite(high);
  const std::string range = bounded ? fmt::format(" from {} to {}", low, high) : "";
  return CLI::Validator(
      [low, high, range](const std::string& text) -> std::string {
        double value = 0;
        const char* end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc() && stop == end && std::isfinite(value) && value >= low &&
            value <= high)
          return "";
        return fmt::format("expected a number{}, found {}", range, Shown(text));
      },
      bounded ? fmt::format("{}..{}", low, high) : "");
}

CLI::Validator OneOf(std::vector<std::string> words) {
  const std::string list = fmt::format("{}", fmt::join(words, ", "));
  return CLI::Validator(
      [words = std::move(words), list](const std::string& text) -> std::string {
        if (std::find(words.begin(), words.end(), text) != words.end()) return "";
        return fmt::format("expected one of {}, found {}", list, Shown(text));
      },
      "{" + list + "}");
}

std::string OneLine(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 32 && byte != 127) {
      out += c;
    } else {
      out += c == '\n' ? "\\n" : fmt::format("\\x{:02x}", byte);
    }
  }
  return out;
}

int Fail(const Status& status) {
  fmt::print(stderr, "phasor: error: {}\n", OneLine(status.message()));
  return 1;
}

int UsageError(const std::string& message) {
  fmt::print(stderr, "phasor: error: {}\n", OneLine(message));
  return 2;
}

std::string HumanBytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string CpuName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) {
      const std::size_t colon = line.find(':');
      if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
    }
  }
  return "unknown";
}

}  // namespace phasor::cli
