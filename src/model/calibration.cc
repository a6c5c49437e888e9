#include "model/calibration.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "tensor/half.h"

namespace phasor {
namespace {

using Json = nlohmann::json;
constexpr int kVersion = 2;

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

Result<std::string> StringField(const Json& j, const std::string& name, const char* key) {
  auto it = j.find(key);
  if (it == j.end() || !it->is_string()) {
    return Bad(name, std::string(key) + ": expected a string");
  }
  return it->get<std::string>();
}

// j[key]: n_heads strings of n_bytes two-digit hex numbers each.
Result<std::vector<uint8_t>> ParseBytes(const Json& j, const std::string& name, const char* key,
                                        int64_t n_heads, int64_t n_bytes) {
  auto list = j.find(key);
  if (list == j.end() || !list->is_array() || static_cast<int64_t>(list->size()) != n_heads) {
    return Bad(name, fmt::format("{}: expected {} strings", key, n_heads));
  }
  std::vector<uint8_t> bytes;
  for (const Json& entry : *list) {
    if (!entry.is_string() ||
        static_cast<int64_t>(entry.get_ref<const std::string&>().size()) != 2 * n_bytes) {
      return Bad(name, fmt::format("{}: expected strings of {} hex digits", key, 2 * n_bytes));
    }
    const std::string& hex = entry.get_ref<const std::string&>();
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      const int high = HexDigit(hex[i]), low = HexDigit(hex[i + 1]);
      if (high < 0 || low < 0) {
        return Bad(name, fmt::format("{}: expected hex digits, found {}", key, hex.substr(i, 2)));
      }
      bytes.push_back(static_cast<uint8_t>(high * 16 + low));
    }
  }
  return bytes;
}

std::string Hex(std::span<const uint8_t> bytes) {
  std::string hex;
  for (uint8_t b : bytes) hex += fmt::format("{:02x}", b);
  return hex;
}

// Number d of the f16 that a head's bytes begin with.
float LeadingNumber(const uint8_t* head, int d) {
  return F16ToF32(static_cast<uint16_t>(head[2 * d] | head[2 * d + 1] << 8));
}

Result<StoredQueryMoments> ParseQueryMoments(const Json& j, const std::string& name,
                                             int64_t n_heads) {
  StoredQueryMoments out;
  auto object = j.find("query_moments");
  if (object == j.end()) return out;
  if (!object->is_object()) return Bad(name, "query_moments: expected an object");
  PHASOR_ASSIGN_OR_RETURN(const int64_t n, IntField(*object, name, "n_channels", 1024));
  out.n_channels = static_cast<int>(n);
  PHASOR_ASSIGN_OR_RETURN(out.bytes,
                          ParseBytes(*object, name, "moments", n_heads,
                                     n == 0 ? 0 : static_cast<int64_t>(out.BytesPerHead())));
  if (n == 0) return Bad(name, "query_moments: n_channels: expected at least 1, found 0");
  for (int64_t i = 0; i < n_heads; ++i) {
    const uint8_t* head = out.bytes.data() + static_cast<std::size_t>(i) * out.BytesPerHead();
    for (int d = 0; d < out.n_channels; ++d) {
      const float deviation = LeadingNumber(head, d);
      if (!std::isfinite(deviation) || deviation < 0) {
        return Bad(name, fmt::format("moments: expected finite numbers of at least 0 for the {} "
                                     "channels of head {}, found others",
                                     n, i));
      }
    }
  }
  return out;
}

Result<CalibrationSet> ParseSet(const Json& j, const std::string& name, int64_t n_heads) {
  if (!j.is_object()) return Bad(name, "sets: expected objects");
  CalibrationSet set;
  PHASOR_ASSIGN_OR_RETURN(set.codec, StringField(j, name, "codec"));
  PHASOR_ASSIGN_OR_RETURN(int64_t n_classes, IntField(j, name, "n_classes", 1024));
  if (!j.contains("bits_per_element") || !j["bits_per_element"].is_number()) {
    return Bad(name, "bits_per_element: expected a number");
  }
  set.bits_per_element = j["bits_per_element"].get<double>();
  set.n_classes = static_cast<int>(n_classes);
  PHASOR_ASSIGN_OR_RETURN(set.classes, ParseBytes(j, name, "classes", n_heads, n_classes));
  return set;
}

Result<StoredValueDirections> ParseValueDirections(const Json& j, const std::string& name,
                                                   int64_t n_heads) {
  StoredValueDirections out;
  auto object = j.find("value_directions");
  if (object == j.end()) return out;
  if (!object->is_object()) return Bad(name, "value_directions: expected an object");
  PHASOR_ASSIGN_OR_RETURN(const int64_t n, IntField(*object, name, "n_channels", 1024));
  PHASOR_ASSIGN_OR_RETURN(const int64_t m, IntField(*object, name, "n_directions", n));
  out.n_channels = static_cast<int>(n);
  out.n_directions = static_cast<int>(m);
  PHASOR_ASSIGN_OR_RETURN(out.bytes, ParseBytes(*object, name, "directions", n_heads,
                                                static_cast<int64_t>(out.BytesPerHead())));
  return out;
}

}  // namespace

void StoredValueDirections::Append(std::span<const float> direction_ND,
                                   std::span<const float> factor_N) {
  const auto D = static_cast<std::size_t>(n_channels), n = static_cast<std::size_t>(n_directions);
  PHASOR_CHECK(factor_N.size() <= n && direction_ND.size() == factor_N.size() * D);
  // Directions that are missing are zeros with a factor of 1.
  for (std::size_t i = 0; i < n; ++i) {
    const uint16_t half = F32ToF16(i < factor_N.size() ? factor_N[i] : 1.0f);
    bytes.push_back(static_cast<uint8_t>(half & 255));
    bytes.push_back(static_cast<uint8_t>(half >> 8));
  }
  for (std::size_t i = 0; i < n; ++i) {
    float largest = 0;
    for (std::size_t d = 0; i < factor_N.size() && d < D; ++d) {
      largest = std::max(largest, std::fabs(direction_ND[i * D + d]));
    }
    for (std::size_t d = 0; d < D; ++d) {
      const float x = largest > 0 ? direction_ND[i * D + d] / largest : 0.0f;
      bytes.push_back(static_cast<uint8_t>(static_cast<int>(std::lrint(127 * x)) & 255));
    }
  }
}

std::span<const uint8_t> Calibration::ValueDirectionBytes(int layer, int head) const {
  const std::size_t n = value_directions.BytesPerHead();
  return std::span(value_directions.bytes)
      .subspan((static_cast<std::size_t>(layer) * n_kv_heads + head) * n, n);
}

Calibration::Directions Calibration::ValueDirections(int layer, int head) const {
  Directions out;
  const auto D = static_cast<std::size_t>(value_directions.n_channels);
  const auto n = static_cast<std::size_t>(value_directions.n_directions);
  if (n == 0) return out;
  const uint8_t* at = ValueDirectionBytes(layer, head).data();
  for (std::size_t i = 0; i < n; ++i) {
    const auto* number = reinterpret_cast<const int8_t*>(at + 2 * n + i * D);
    if (std::all_of(number, number + D, [](int8_t x) { return x == 0; })) continue;
    out.factor_N.push_back(LeadingNumber(at, static_cast<int>(i)));
    for (std::size_t d = 0; d < D; ++d) {
      out.direction_ND.push_back(static_cast<float>(number[d]) / 127.0f);
    }
  }
  return out;
}

void StoredQueryMoments::Append(std::span<const double> moments_DD) {
  const auto n = static_cast<std::size_t>(n_channels);
  PHASOR_CHECK(moments_DD.size() == n * n);
  double largest = 0;
  for (std::size_t d = 0; d < n; ++d) largest = std::max(largest, moments_DD[d * n + d]);
  const double scale = largest > 0 ? 1.0 / std::sqrt(largest) : 0.0;
  std::vector<double> deviation_D;
  for (std::size_t d = 0; d < n; ++d) {
    deviation_D.push_back(std::sqrt(std::max(0.0, moments_DD[d * n + d])));
    const uint16_t half = F32ToF16(static_cast<float>(scale * deviation_D[d]));
    bytes.push_back(static_cast<uint8_t>(half & 255));
    bytes.push_back(static_cast<uint8_t>(half >> 8));
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const double product = deviation_D[i] * deviation_D[j];
      const double r = product > 0 ? moments_DD[i * n + j] / product : 0.0;
      const auto step = static_cast<int>(std::lrint(127 * std::clamp(r, -1.0, 1.0)));
      bytes.push_back(static_cast<uint8_t>(step & 255));
    }
  }
}

std::vector<float> Calibration::QueryMoments(int layer, int head) const {
  const auto n = static_cast<std::size_t>(query_moments.n_channels);
  std::vector<float> moments_DD(n * n);
  if (n == 0) return moments_DD;
  const uint8_t* at =
      query_moments.bytes.data() +
      (static_cast<std::size_t>(layer) * n_kv_heads + head) * query_moments.BytesPerHead();
  const uint8_t* common = at + 2 * n;
  for (std::size_t i = 0; i < n; ++i) {
    const float a = LeadingNumber(at, static_cast<int>(i));
    for (std::size_t j = 0; j < i; ++j) {
      const float r = static_cast<float>(static_cast<int8_t>(*common++)) / 127.0f;
      const float b = LeadingNumber(at, static_cast<int>(j));
      moments_DD[i * n + j] = moments_DD[j * n + i] = r * a * b;
    }
    moments_DD[i * n + i] = a * a;
  }
  return moments_DD;
}

const CalibrationSet* Calibration::Find(const std::string& codec) const {
  for (const CalibrationSet& set : sets) {
    if (set.codec == codec) return &set;
  }
  return nullptr;
}

std::span<const uint8_t> Calibration::Classes(const std::string& codec, int layer, int head) const {
  const CalibrationSet* set = Find(codec);
  if (set == nullptr) return {};
  const auto n = static_cast<std::size_t>(set->n_classes);
  return {set->classes.data() + (static_cast<std::size_t>(layer) * n_kv_heads + head) * n, n};
}

Result<Calibration> Calibration::Parse(const std::string& json, const std::string& name) {
  const Json j = Json::parse(json, nullptr, false);
  if (!j.is_object() || j.value("format", Json()) != "phasor-calibration") {
    return Bad(name, "expected a JSON object with format \"phasor-calibration\"");
  }
  PHASOR_ASSIGN_OR_RETURN(int64_t version, IntField(j, name, "version", 1 << 20));
  if (version != kVersion) {
    return Unsupported(fmt::format(
        "{}: calibration: expected version {}, found {}; make it again with phasor calibrate", name,
        kVersion, version));
  }
  Calibration c;
  PHASOR_ASSIGN_OR_RETURN(int64_t layers, IntField(j, name, "n_layers", 1024));
  PHASOR_ASSIGN_OR_RETURN(int64_t heads, IntField(j, name, "n_kv_heads", 1024));
  PHASOR_ASSIGN_OR_RETURN(c.n_tokens, IntField(j, name, "n_tokens", int64_t{1} << 40));
  PHASOR_ASSIGN_OR_RETURN(c.fingerprint, StringField(j, name, "fingerprint"));
  c.n_layers = static_cast<int>(layers);
  c.n_kv_heads = static_cast<int>(heads);
  auto sets = j.find("sets");
  if (sets == j.end() || !sets->is_array()) return Bad(name, "sets: expected a list");
  for (const Json& entry : *sets) {
    PHASOR_ASSIGN_OR_RETURN(CalibrationSet set, ParseSet(entry, name, layers * heads));
    if (c.Find(set.codec) != nullptr)
      return Bad(name, "sets: expected each codec once, found " + set.codec + " twice");
    c.sets.push_back(std::move(set));
  }
  PHASOR_ASSIGN_OR_RETURN(c.query_moments, ParseQueryMoments(j, name, layers * heads));
  PHASOR_ASSIGN_OR_RETURN(c.value_directions, ParseValueDirections(j, name, layers * heads));
  c.source = name;
  return c;
}

Result<Calibration> Calibration::Read(const std::string& path) {
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(path, std::size_t{64} << 20));
  return Parse(text, path);
}

Status Calibration::Write(const std::string& path) const {
  Json j = {{"format", "phasor-calibration"}, {"version", kVersion},
            {"fingerprint", fingerprint},     {"n_layers", n_layers},
            {"n_kv_heads", n_kv_heads},       {"n_tokens", n_tokens}};
  j["sets"] = Json::array();
  for (const CalibrationSet& set : sets) {
    Json list = Json::array();
    for (int i = 0; i < n_layers * n_kv_heads; ++i) {
      list.push_back(Hex(Classes(set.codec, i / n_kv_heads, i % n_kv_heads)));
    }
    j["sets"].push_back({{"codec", set.codec},
                         {"bits_per_element", set.bits_per_element},
                         {"n_classes", set.n_classes},
                         {"classes", std::move(list)}});
  }
  auto by_head = [&](const std::vector<uint8_t>& bytes, std::size_t n) {
    Json list = Json::array();
    for (std::size_t at = 0; at < bytes.size(); at += n) list.push_back(Hex({&bytes[at], n}));
    return list;
  };
  if (query_moments.n_channels > 0) {
    j["query_moments"] = {{"n_channels", query_moments.n_channels},
                          {"moments", by_head(query_moments.bytes, query_moments.BytesPerHead())}};
  }
  if (value_directions.n_directions > 0) {
    j["value_directions"] = {
        {"n_channels", value_directions.n_channels},
        {"n_directions", value_directions.n_directions},
        {"directions", by_head(value_directions.bytes, value_directions.BytesPerHead())}};
  }
  PHASOR_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(path));
  PHASOR_RETURN_IF_ERROR(writer.Write(j.dump(1) + "\n"));
  return writer.Commit();
}

Status Calibration::CheckFits(const ModelConfig& config, const std::string& model) const {
  if (fingerprint != model) {
    return InvalidArgument(source + ": calibration: expected one for model fingerprint " + model +
                           ", found one for " + fingerprint);
  }
  if (n_layers != config.n_layers || n_kv_heads != config.n_kv_heads) {
    return InvalidArgument(
        fmt::format("{}: calibration: expected {} layers, {} KV heads, found {}, {}", source,
                    config.n_layers, config.n_kv_heads, n_layers, n_kv_heads));
  }
  if (query_moments.n_channels != 0 && query_moments.n_channels != config.head_dim) {
    return InvalidArgument(
        fmt::format("{}: calibration: query_moments: expected {} channels, found {}", source,
                    config.head_dim, query_moments.n_channels));
  }
  if (value_directions.n_directions != 0 && value_directions.n_channels != config.head_dim) {
    return InvalidArgument(
        fmt::format("{}: calibration: value_directions: expected {} channels, found {}", source,
                    config.head_dim, value_directions.n_channels));
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
