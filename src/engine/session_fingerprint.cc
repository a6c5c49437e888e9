#include "engine/session_fingerprint.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "cache/kv_cache.h"
#include "engine/model_file.h"
#include "engine/session_codecs.h"
#include "model/calibration.h"
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

uint64_t CalibrationHash(const Calibration* calibration, const std::string& type, int layer,
                         int n_kv_heads) {
  if (calibration == nullptr || calibration->Find(type) == nullptr) return 0;
  Hasher128 hasher;
  for (int head = 0; head < n_kv_heads; ++head) {
    hasher.AddBytes(std::as_bytes(calibration->Classes(type, layer, head)));
  }
  return Shortened(hasher.Finish());
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
  const auto types_k = LayerTypes("cache-type-k", options.type_k, config.n_layers).value();
  const auto types_v = LayerTypes("cache-type-v", options.type_v, config.n_layers).value();
  for (int layer = 0; layer < config.n_layers; ++layer) {
    f.layers[layer] = {.key_codec = types_k[layer],
                       .value_codec = types_v[layer],
                       .key_rows = WindowType(types_k[layer]),
                       .value_rows = WindowType(types_v[layer]),
                       .calibration_hash = CalibrationHash(model.calibration(), types_k[layer],
                                                           layer, config.n_kv_heads)};
  }
  return f;
}

}  // namespace phasor
