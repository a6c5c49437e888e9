#include "engine/session_codecs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "model/calibration.h"
#include "registry/kv_codec_table.h"
#include "registry/position_table.h"

namespace phasor {
namespace {

KvCodecParams HeadParams(const ModelConfig& config, KvRole role, int layer, int head) {
  KvCodecParams p;
  p.head_dim = config.head_dim;
  p.n_rot = config.rope.n_rot;
  p.pairing = config.pairing;
  p.role = role;
  p.layer = layer;
  p.kv_head = head;
  return p;
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

const char* WindowType(const std::string& type) {
  if (type == "f32" || type == "bf16") return type == "f32" ? "f32" : "bf16";
  return "f16";
}

std::vector<float> RadiansPerToken(const PhaseTable& phases) {
  std::vector<float> omega_P;
  for (uint64_t step : phases.step_P) {
    constexpr double kRadians = 6.283185307179586 / 18446744073709551616.0;  // 2 pi / 2^64
    omega_P.push_back(
        static_cast<float>(static_cast<double>(static_cast<int64_t>(step)) * kRadians));
  }
  return omega_P;
}

Result<PhaseTable> MakeSessionPhases(const ModelConfig& config, const SessionOptions& options) {
  RopeParams rope = options.rope ? *options.rope : config.rope;
  if (rope.n_rot == 0) rope.n_rot = config.rope.n_rot;
  if (rope.n_rot != config.rope.n_rot) {
    return InvalidArgument(fmt::format("rope: expected the model's {} rotated dimensions, found {}",
                                       config.rope.n_rot, rope.n_rot));
  }
  if (rope.context == 0) rope.context = options.n_ctx > 0 ? options.n_ctx : config.n_ctx_train;
  return MakePhaseTable(rope);
}

Result<std::vector<std::string>> HeadTypes(const std::string& flag, const std::string& types,
                                           int n_layers, int n_kv_heads) {
  std::vector<std::string> all;
  int n_listed = 0;
  for (std::string layer : Split(types, ',')) {
    int64_t n_times = 1;
    if (const std::size_t star = layer.find('*'); star != std::string::npos) {
      const char* end = layer.data() + layer.size();
      const auto [stop, error] = std::from_chars(layer.data() + star + 1, end, n_times);
      if (error != std::errc() || stop != end || n_times < 1 || n_times > n_layers) {
        return InvalidArgument(fmt::format("{}: expected a number of layers from 1 to {} in \"{}\"",
                                           flag, n_layers, layer));
      }
      layer.resize(star);
    }
    std::vector<std::string> heads = Split(layer, '/');
    if (std::find(heads.begin(), heads.end(), "") != heads.end()) {
      return InvalidArgument(flag + ": expected a cache type or a comma-separated list, found \"" +
                             types + "\"");
    }
    if (static_cast<int>(heads.size()) > n_kv_heads) {
      return InvalidArgument(
          fmt::format("{}: expected at most {} types (one per KV head), found \"{}\"", flag,
                      n_kv_heads, layer));
    }
    heads.resize(n_kv_heads, heads.back());
    n_listed += static_cast<int>(n_times);
    for (; n_times > 0 && n_listed <= n_layers; --n_times) {
      all.insert(all.end(), heads.begin(), heads.end());
    }
  }
  if (n_listed > n_layers) {
    return InvalidArgument(fmt::format("{}: expected at most {} types (one per layer), found {}",
                                       flag, n_layers, n_listed));
  }
  while (static_cast<int>(all.size()) < n_layers * n_kv_heads) {
    all.push_back(all[all.size() - n_kv_heads]);
  }
  return all;
}

Result<std::vector<KvHeadCodecs>> MakeSessionCodecs(const ModelConfig& config,
                                                    const Calibration* calibration,
                                                    const SessionOptions& options) {
  if (options.n_sink < 0 || options.n_sink > kPageTokens) {
    return InvalidArgument(
        fmt::format("sink: expected 0 to {} tokens, found {}", kPageTokens, options.n_sink));
  }
  if (options.n_recent < 0 || options.n_recent > 1 << 20) {
    return InvalidArgument(
        fmt::format("recent: expected 0 to {} tokens, found {}", 1 << 20, options.n_recent));
  }
  PHASOR_ASSIGN_OR_RETURN(
      auto types_k, HeadTypes("cache-type-k", options.type_k, config.n_layers, config.n_kv_heads));
  PHASOR_ASSIGN_OR_RETURN(
      auto types_v, HeadTypes("cache-type-v", options.type_v, config.n_layers, config.n_kv_heads));
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable phases, MakeSessionPhases(config, options));
  const std::vector<float> omega_P = RadiansPerToken(phases);
  std::vector<KvHeadCodecs> codecs;
  for (int layer = 0; layer < config.n_layers; ++layer) {
    for (int head = 0; head < config.n_kv_heads; ++head) {
      const std::size_t index = static_cast<std::size_t>(layer) * config.n_kv_heads + head;
      const std::string &type_k = types_k[index], &type_v = types_v[index];
      KvHeadCodecs c;
      KvCodecParams k = HeadParams(config, KvRole::kKey, layer, head);
      KvCodecParams v = HeadParams(config, KvRole::kValue, layer, head);
      k.omega_P = omega_P;
      std::vector<float> query_moments_DD;
      Calibration::Directions directions;
      if (calibration != nullptr) {
        // Those that take widths alone know what to do with them.
        if (calibration->Find(type_k) != nullptr) {
          query_moments_DD = calibration->QueryMoments(layer, head);
        }
        k.query_moments_DD = query_moments_DD;
        if (calibration->Find(type_v) != nullptr) {
          directions = calibration->ValueDirections(layer, head);
        }
        v.direction_ND = directions.direction_ND;
        v.factor_N = directions.factor_N;
        k.classes = calibration->Classes(type_k, layer, head);
        v.classes = calibration->Classes(type_v, layer, head);
      }
      PHASOR_ASSIGN_OR_RETURN(c.key, MakeKvCodec(type_k, k));
      PHASOR_ASSIGN_OR_RETURN(c.value, MakeKvCodec(type_v, v));
      PHASOR_ASSIGN_OR_RETURN(c.key_rows, MakeRowKvCodec(WindowType(type_k), k));
      PHASOR_ASSIGN_OR_RETURN(c.value_rows, MakeRowKvCodec(WindowType(type_v), v));
      codecs.push_back(std::move(c));
    }
  }
  return codecs;
}

Result<std::size_t> EstimateCacheBytes(const ModelConfig& config, const Calibration* calibration,
                                       const SessionOptions& options, int64_t n_tokens) {
  // Sizes hang on widths alone.
  Calibration widths;
  if (calibration != nullptr) {
    widths = *calibration;
    widths.query_moments = {};
    widths.value_directions = {};
  }
  PHASOR_ASSIGN_OR_RETURN(
      auto codecs, MakeSessionCodecs(config, calibration != nullptr ? &widths : nullptr, options));
  const int64_t after_sink = std::max<int64_t>(0, n_tokens - options.n_sink);
  const int64_t frozen = std::max<int64_t>(0, (after_sink - options.n_recent) / kPageTokens);
  const int64_t window = (after_sink - frozen * kPageTokens + kPageTokens - 1) / kPageTokens;
  std::size_t bytes = 0;
  // A context that nobody has memory for must not wrap around to a small number.
  auto add = [&bytes](std::size_t page, int64_t n) {
    std::size_t product = 0;
    if (__builtin_mul_overflow(page, static_cast<std::size_t>(n), &product) ||
        __builtin_add_overflow(bytes, product, &bytes)) {
      bytes = SIZE_MAX;
    }
  };
  for (const KvHeadCodecs& c : codecs) {
    const std::size_t row_page = c.key_rows->PageBytes() + c.value_rows->PageBytes();
    add(c.key->PageBytes() + c.value->PageBytes(), frozen);
    add(row_page, window);
    add(row_page * static_cast<std::size_t>(std::min<int64_t>(n_tokens, options.n_sink)) /
            kPageTokens,
        1);
  }
  return bytes;
}

Status CheckCacheMemory(const ModelConfig& config, const Calibration* calibration,
                        const SessionOptions& options, int64_t n_ctx) {
  PHASOR_ASSIGN_OR_RETURN(std::size_t bytes,
                          EstimateCacheBytes(config, calibration, options, n_ctx));
  const auto physical = static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) *
                        static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (bytes > physical) {
    return ResourceExhausted(fmt::format(
        "cache: a context of {} tokens needs {:.1f} GiB, this machine has {:.1f} GiB; lower -c or "
        "choose smaller cache types with -ctk and -ctv",
        n_ctx, static_cast<double>(bytes) / (1 << 30), static_cast<double>(physical) / (1 << 30)));
  }
  return Status::Ok();
}

}  // namespace phasor
