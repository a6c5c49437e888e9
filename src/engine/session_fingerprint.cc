#include "engine/session_fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "cache/kv_cache.h"
#include "engine/model_file.h"
#include "engine/session_codecs.h"
#include "model/calibration.h"
#include "registry/kv_codec_table.h"
#include "registry/position_table.h"
#include "store/hash.h"
#include "store/kv_span_io.h"

namespace phasor {
namespace {

void AddSchedule(const PhaseTable& table, Hasher128& hasher) {
  hasher.AddBytes(std::as_bytes(std::span(table.step_P)));
  hasher.AddBytes(std::as_bytes(std::span(&table.attention_factor, 1)));
}

// The first 8 bytes of a hash, never 0.
uint64_t Shortened(const Hash128& hash) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | hash.bytes[i];
  return std::max<uint64_t>(value, 1);
}

// Of the widths of one layer's heads, whose types these are; 0: none.
uint64_t CalibrationHash(const Calibration* calibration, std::span<const std::string> types_k,
                         std::span<const std::string> types_v, int layer) {
  if (calibration == nullptr) return 0;
  Hasher128 hasher;
  bool any = false;
  for (const auto& types : {types_k, types_v}) {
    for (std::size_t head = 0; head < types.size(); ++head) {
      if (calibration->Find(types[head]) == nullptr) continue;
      any = true;
      hasher.AddBytes(
          std::as_bytes(calibration->Classes(types[head], layer, static_cast<int>(head))));
    }
  }
  // Where values are stretched they mean something else.
  for (std::size_t head = 0; head < types_v.size(); ++head) {
    if (calibration->Find(types_v[head]) != nullptr) {
      hasher.AddBytes(
          std::as_bytes(calibration->ValueDirectionBytes(layer, static_cast<int>(head))));
    }
  }
  return any ? Shortened(hasher.Finish()) : 0;
}

// "a", or "a/b/c" where the heads of a layer differ.
std::string Joined(std::span<const std::string> types) {
  std::string all = types[0];
  if (std::all_of(types.begin(), types.end(), [&](const auto& t) { return t == types[0]; })) {
    return all;
  }
  for (const std::string& type : types.subspan(1)) all += "/" + type;
  return all;
}

// As saved pages name their codec: "x", from the second layout on "x@2".
std::string LayoutName(const std::string& type) {
  const KvCodecInfo* info = FindKvCodec(type);
  PHASOR_CHECK(info != nullptr);
  return info->layout == 1 ? type : fmt::format("{}@{}", type, info->layout);
}

std::string PagesOf(std::span<const std::string> types) {
  std::vector<std::string> pages;
  for (const std::string& type : types) pages.push_back(LayoutName(type));
  return Joined(pages);
}

std::string RowsOf(std::span<const std::string> types) {
  std::vector<std::string> rows;
  for (const std::string& type : types) rows.emplace_back(WindowType(type));
  return Joined(rows);
}

// What codecs were made for (the schedule of the store's first session) and what keys are turned
// with.
uint64_t ScheduleHash(const Session& session) {
  Hasher128 hasher;
  hasher.AddNumber(static_cast<uint64_t>(session.model().config().pairing));
  hasher.AddBytes(std::as_bytes(std::span(session.store()->options().codec_omega_P)));
  AddSchedule(session.cache().schedule(), hasher);
  return Shortened(hasher.Finish());
}

}  // namespace

std::string ModelHash(const LoadedModel& model) {
  constexpr std::size_t kSamples = 16, kSampleBytes = 4096;
  const ModelConfig& c = model.config();
  Hasher128 hasher;
  hasher.AddString(fmt::format("{} {} {} {} {} {} {} {}", c.architecture, c.n_layers, c.n_heads,
                               c.n_kv_heads, c.head_dim, c.rope.n_rot, c.n_vocab, c.rms_eps));
  for (const TensorView& t : model.file().tensors()) {
    hasher.AddString(t.name);
    hasher.AddNumber(t.gguf_type);
    for (int64_t n : t.dims) hasher.AddNumber(static_cast<uint64_t>(n));
    if (t.bytes.size() <= kSamples * kSampleBytes) {
      hasher.AddBytes(t.bytes);
      continue;
    }
    const std::size_t room = t.bytes.size() - kSampleBytes;
    for (std::size_t i = 0; i < kSamples; ++i) {
      hasher.AddBytes(t.bytes.subspan(room / (kSamples - 1) * i, kSampleBytes));
    }
  }
  return hasher.Finish().Hex();
}

std::string TokenizerHash(const Tokenizer& tokenizer) {
  Hasher128 hasher;
  hasher.AddString(tokenizer.kind());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    hasher.AddString(tokenizer.TokenBytes(id, /*skip_special=*/false));
    hasher.AddNumber(tokenizer.IsSpecial(id) ? 1 : 0);
  }
  return hasher.Finish().Hex();
}

std::string TypesOfLayer(const std::string& codec) {
  std::string types;
  bool in_layout = false;
  for (const char c : codec) {
    in_layout = c == '@' || (in_layout && c != '/');
    if (!in_layout) types += c;
  }
  return types;
}

SpanFingerprint SessionFingerprint(const Session& session) {
  const LoadedModel& model = session.model();
  const ModelConfig& config = model.config();
  const SessionOptions& options = session.options();
  SpanFingerprint f = StoreFingerprint(*session.store());
  // Float products give other numbers than 8-bit ones.
  const bool is_float = model.transformer().weights().precision == MatMulPrecision::kF32;
  f.model_hash = ModelHash(model) + (is_float ? " in f32" : "");
  f.tokenizer_hash = TokenizerHash(model.tokenizer());
  const RopeParams& rope = options.rope.has_value() ? *options.rope : config.rope;
  f.rope_schedule =
      fmt::format("{}, base {:g}, factor {:g}", rope.method, rope.theta_base, rope.factor);
  f.rope_hash = ScheduleHash(session);
  // Checked when the session was made.
  const auto n = static_cast<std::size_t>(config.n_kv_heads);
  const auto types_k =
      HeadTypes("cache-type-k", options.type_k, config.n_layers, config.n_kv_heads).value();
  const auto types_v =
      HeadTypes("cache-type-v", options.type_v, config.n_layers, config.n_kv_heads).value();
  for (int layer = 0; layer < config.n_layers; ++layer) {
    const auto k = std::span(types_k).subspan(layer * n, n);
    const auto v = std::span(types_v).subspan(layer * n, n);
    f.layers[layer] = {.key_codec = PagesOf(k),
                       .value_codec = PagesOf(v),
                       .key_rows = RowsOf(k),
                       .value_rows = RowsOf(v),
                       .calibration_hash = CalibrationHash(model.calibration(), k, v, layer)};
  }
  return f;
}

}  // namespace phasor
