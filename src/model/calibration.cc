#include "model/calibration.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <filesystem>

#include "base/file.h"

namespace phasor {
namespace {

using Json = nlohmann::json;
constexpr int kVersion = 1;

Status Bad(const std::string& name, const std::string& what) {
  return DataCorrupt(name + ": calibration: " + what);
}

Result<int64_t> IntField(const Json& j, const std::string& name, const char* key, int64_t max) {
  auto it = j.find(key);
  if (it == j.end() || !it->is_number_integer()) {
    return Bad(name, std::string(key) + ": expected an integer");
  }
  const auto value = it->get<int64_t>();
  if (value < 0 || value > max) {
    return Bad(name, fmt::format("{}: expected 0 to {}, found {}", key, max, value));
  }
  return value;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

Result<Calibration> Calibration::Parse(const std::string& json, const std::string& name) {
  const Json j = Json::parse(json, nullptr, false);
  if (!j.is_object() || j.value("format", Json()) != "phasor-calibration") {
    return Bad(name, "expected a JSON object with format \"phasor-calibration\"");
  }
  PHASOR_ASSIGN_OR_RETURN(int64_t version, IntField(j, name, "version", 1 << 20));
  if (version != kVersion) {
    return Unsupported(
        fmt::format("{}: calibration: expected version {}, found {}", name, kVersion, version));
  }
  Calibration c;
  PHASOR_ASSIGN_OR_RETURN(int64_t layers, IntField(j, name, "n_layers", 1024));
  PHASOR_ASSIGN_OR_RETURN(int64_t heads, IntField(j, name, "n_kv_heads", 1024));
  PHASOR_ASSIGN_OR_RETURN(int64_t pairs, IntField(j, name, "n_pairs", 512));
  PHASOR_ASSIGN_OR_RETURN(c.n_tokens, IntField(j, name, "n_tokens", int64_t{1} << 40));
  for (const char* key : {"codec", "fingerprint"}) {
    if (!j.contains(key) || !j[key].is_string())
      return Bad(name, std::string(key) + ": expected a string");
  }
  c.codec = j["codec"].get<std::string>();
  c.fingerprint = j["fingerprint"].get<std::string>();
  if (!j.contains("bits_per_element") || !j["bits_per_element"].is_number()) {
    return Bad(name, "bits_per_element: expected a number");
  }
  c.bits_per_element = j["bits_per_element"].get<double>();
  c.n_layers = static_cast<int>(layers);
  c.n_kv_heads = static_cast<int>(heads);
  c.n_pairs = static_cast<int>(pairs);
  auto classes = j.find("classes");
  if (classes == j.end() || !classes->is_array() ||
      static_cast<int64_t>(classes->size()) != layers * heads) {
    return Bad(name, fmt::format("classes: expected {} strings", layers * heads));
  }
  for (const Json& entry : *classes) {
    if (!entry.is_string() ||
        static_cast<int64_t>(entry.get_ref<const std::string&>().size()) != 2 * pairs) {
      return Bad(name, fmt::format("classes: expected strings of {} hex digits", 2 * pairs));
    }
    const std::string& hex = entry.get_ref<const std::string&>();
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      const int high = HexDigit(hex[i]), low = HexDigit(hex[i + 1]);
      if (high < 0 || low < 0)
        return Bad(name, "classes: expected hex digits, found " + hex.substr(i, 2));
      c.classes.push_back(static_cast<uint8_t>(high * 16 + low));
    }
  }
  c.source = name;
  return c;
}

Result<Calibration> Calibration::Read(const std::string& path) {
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(path, std::size_t{64} << 20));
  return Parse(text, path);
}

Status Calibration::Write(const std::string& path) const {
  Json j = {{"format", "phasor-calibration"},
            {"version", kVersion},
            {"codec", codec},
            {"fingerprint", fingerprint},
            {"n_layers", n_layers},
            {"n_kv_heads", n_kv_heads},
            {"n_pairs", n_pairs},
            {"n_tokens", n_tokens},
            {"bits_per_element", bits_per_element}};
  Json list = Json::array();
  for (int i = 0; i < n_layers * n_kv_heads; ++i) {
    std::string hex;
    for (uint8_t c : PairClasses(i / n_kv_heads, i % n_kv_heads)) hex += fmt::format("{:02x}", c);
    list.push_back(std::move(hex));
  }
  j["classes"] = std::move(list);
  PHASOR_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(path));
  PHASOR_RETURN_IF_ERROR(writer.Write(j.dump(1) + "\n"));
  return writer.Commit();
}

Status Calibration::CheckFits(const ModelConfig& config, const std::string& model) const {
  if (fingerprint != model) {
    return InvalidArgument(source + ": calibration: expected one for model fingerprint " + model +
                           ", found one for " + fingerprint);
  }
  if (n_layers != config.n_layers || n_kv_heads != config.n_kv_heads ||
      n_pairs != (config.head_dim + 1) / 2) {
    return InvalidArgument(
        fmt::format("{}: calibration: expected {} layers, {} KV heads, {} pairs, found {}, {}, {}",
                    source, config.n_layers, config.n_kv_heads, (config.head_dim + 1) / 2, n_layers,
                    n_kv_heads, n_pairs));
  }
  return Status::Ok();
}

std::vector<std::string> CalibrationPaths(const std::string& model_path,
                                          const std::string& fingerprint) {
  std::string beside = model_path;
  while (beside.size() > 1 && beside.back() == '/') beside.pop_back();
  std::vector<std::string> paths = {beside + ".calibration.json",
                                    UserCacheDir() + "/calibration/" + fingerprint + ".json"};
  // bin/phasor -> share/phasor when installed; build/<preset>/phasor -> share/phasor in a checkout.
  std::error_code ec;
  const auto exe = std::filesystem::read_symlink("/proc/self/exe", ec);
  if (!ec) {
    for (const char* up : {"../share", "../../share"}) {
      paths.push_back((exe.parent_path() / up / "phasor/calibration" / (fingerprint + ".json"))
                          .lexically_normal()
                          .string());
    }
  }
  return paths;
}

}  // namespace phasor
