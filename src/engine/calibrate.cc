#include "engine/calibrate.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/aligned.h"
#include "base/check.h"
#include "engine/attended_values.h"
#include "engine/model_file.h"
#include "engine/session_codecs.h"
#include "kvcodec/frame_allocation.h"
#include "kvcodec/frame_feedback.h"
#include "kvcodec/query_moments.h"
#include "kvcodec/value_stretch.h"
#include "kvcodec/width_allocation.h"
#include "registry/kv_codec_table.h"
#include "registry/position_table.h"

namespace phasor {
namespace {

constexpr int64_t kMinTokens = 256;

KvCodecParams HeadParams(const ModelConfig& c, std::span<const float> omega_P, KvRole role) {
  KvCodecParams params;
  params.head_dim = c.head_dim;
  params.n_rot = c.rope.n_rot;
  params.pairing = c.pairing;
  params.role = role;
  if (role == KvRole::kKey) params.omega_P = omega_P;
  return params;
}

// Keys and squared queries of one KV head, gathered while the text is read.
struct HeadSample {
  std::vector<float> keys_TD;
  std::vector<double> energy_P;  // per pair, both channels together
  std::vector<double> weight_D;  // per channel; half the pair's where RoPE turns it
  QueryMoments moments;
  AttendedValues values;
};

class Collector {
 public:
  Collector(const ModelConfig& config, std::span<const float> omega_P, int n_sink)
      : c_(config), n_sink_(n_sink) {
    HeadSample empty = {.keys_TD = {},
                        .energy_P = std::vector<double>((c_.head_dim + 1) / 2),
                        .weight_D = std::vector<double>(c_.head_dim),
                        .moments = QueryMoments(HeadParams(c_, omega_P, KvRole::kKey)),
                        .values = AttendedValues(c_.head_dim, c_.group(), n_sink)};
    heads_.assign(static_cast<std::size_t>(c_.n_layers) * c_.n_kv_heads, empty);
  }

  void Observe(int layer, int n, const float* q_THD, const float* k_THD, const float* v_THD) {
    const int64_t D = c_.head_dim, g = c_.group();
    for (int64_t t = 0; t < n; ++t) {
      for (int h = 0; h < c_.n_kv_heads; ++h) {
        HeadSample& sample = heads_[static_cast<std::size_t>(layer) * c_.n_kv_heads + h];
        const float* q = q_THD + (t * c_.n_heads + h * g) * D;
        const float* k = k_THD + (t * c_.n_kv_heads + h) * D;
        sample.values.Add(q, k, v_THD + (t * c_.n_kv_heads + h) * D);
        if (position_ + t < n_sink_) continue;
        sample.keys_TD.insert(sample.keys_TD.end(), k, k + D);
        for (int i = 0; i < g; ++i, q += D) {
          AddEnergy(q, &sample);
          sample.moments.Add(q, position_ + t);
        }
      }
    }
    if (layer == c_.n_layers - 1) position_ += n;
  }

  const HeadSample& head(int index) const { return heads_[index]; }

 private:
  // Pairs as the codec sees them: rotated pairs first, then the tail (j, j + tail/2).
  void AddEnergy(const float* q, HeadSample* sample) const {
    const int rotated = c_.rope.n_rot / 2, tail = (c_.head_dim - c_.rope.n_rot) / 2;
    for (int j = 0; j < rotated + tail; ++j) {
      int a, b;
      if (j >= rotated) {
        a = c_.rope.n_rot + (j - rotated);
        b = a + tail;
      } else if (c_.pairing == RopePairing::kInterleaved) {
        a = 2 * j;
        b = a + 1;
      } else {
        a = j;
        b = j + rotated;
      }
      const double qa = static_cast<double>(q[a]) * q[a], qb = static_cast<double>(q[b]) * q[b];
      sample->energy_P[j] += qa + qb;
      sample->weight_D[a] += j < rotated ? 0.5 * (qa + qb) : qa;
      sample->weight_D[b] += j < rotated ? 0.5 * (qa + qb) : qb;
    }
  }

  const ModelConfig& c_;
  int n_sink_;
  int64_t position_ = 0;
  std::vector<HeadSample> heads_;
};

using Classes = std::vector<std::vector<uint8_t>>;

// importance: of every head; empty: 1.
Result<Classes> AllocatePolar(const std::vector<PairErrorTable>& errors, const Collector& collector,
                              double bits, bool joint, std::span<const double> importance) {
  std::vector<std::vector<double>> weights(errors.size());
  std::vector<WidthHead> heads;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    weights[i] = collector.head(static_cast<int>(i)).energy_P;
    for (double& w : weights[i]) w *= importance.empty() ? 1.0 : importance[i];
    heads.push_back({&errors[i], weights[i]});
  }
  if (joint) return AllocateWidthsJointly(heads, bits);
  Classes classes;
  for (const WidthHead& head : heads) {
    PHASOR_ASSIGN_OR_RETURN(std::vector<uint8_t> one, AllocateWidths(head, bits));
    classes.push_back(std::move(one));
  }
  return classes;
}

bool IsFrame(const std::string& codec) { return codec == "frame4" || codec == "frame3"; }

Status CheckBudgets(const std::vector<CalibrateBudget>& budgets) {
  for (const CalibrateBudget& budget : budgets) {
    if (IsFrame(budget.codec) || budget.codec == "polar") continue;
    return InvalidArgument("calibrate: expected the codec frame4, frame3 or polar, found '" +
                           budget.codec + "'");
  }
  return Status::Ok();
}

Status CheckLength(const ModelConfig& c, int64_t n) {
  if (n <= c.n_ctx_train) return Status::Ok();
  return InvalidArgument("calibrate: expected at most the trained context of " +
                         std::to_string(c.n_ctx_train) + " tokens, found " + std::to_string(n));
}

double DefaultBits(const std::string& codec) {
  for (const CalibrateBudget& budget : DefaultBudgets()) {
    if (budget.codec == codec) return budget.bits_per_element;
  }
  PHASOR_CHECK(false);
}

}  // namespace

std::vector<CalibrateBudget> DefaultBudgets() {
  return {{"frame4", 4.15}, {"frame3", 3.14}, {"polar", 4.15}};
}

namespace {

struct Errors {
  std::vector<PairErrorTable> pairs;  // empty where not wanted
  std::vector<ChannelErrorTable> channels;
  // By head: the queries' moments, and what errors of channels cost when they are fed back.
  std::vector<std::vector<double>> moments_DD, weight_D;
  std::vector<Directions> values;
};

// Channels are put in order by their errors at this width.
constexpr int kOrderWidth = 4;

// A direction for every 8 channels; twice as many lower the error by a thirtieth more
// (docs/log.md).
constexpr int kChannelsPerDirection = 8;

std::vector<double> WeightsOf(std::span<const double> moments_DD, const ChannelErrorTable& errors) {
  std::vector<double> error_D;
  for (int d = 0; d < errors.n_channels; ++d) {
    error_D.push_back(
        errors.error_DW[static_cast<std::size_t>(d) * (kMaxFrameBits + 1) + kOrderWidth]);
  }
  return FeedbackWeights(moments_DD, error_D);
}

// on_head: called once per head, one at a time.
Errors MeasureErrors(const LoadedModel& model, const Collector& collector,
                     std::span<const float> omega_P, bool wants_frame, bool wants_polar,
                     const std::function<void()>& on_head) {
  const ModelConfig& c = model.config();
  const int64_t n_heads = static_cast<int64_t>(c.n_layers) * c.n_kv_heads;
  Errors errors;
  errors.pairs.resize(n_heads);
  errors.channels.resize(n_heads);
  errors.moments_DD.resize(n_heads);
  errors.weight_D.resize(n_heads);
  errors.values.resize(n_heads);
  std::mutex progress;
  model.pool().ParallelFor(n_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const HeadSample& sample = collector.head(static_cast<int>(i));
      const auto n_keys = static_cast<int64_t>(sample.keys_TD.size()) / c.head_dim;
      const KvCodecParams params = HeadParams(c, omega_P, KvRole::kKey);
      const float* keys = sample.keys_TD.data();
      if (wants_polar) errors.pairs[i] = MeasurePairErrors(keys, n_keys, params);
      if (wants_frame) {
        errors.channels[i] = MeasureChannelErrors(keys, n_keys, params);
        errors.moments_DD[i] = sample.moments.Average(static_cast<double>(c.n_ctx_train));
        errors.weight_D[i] = WeightsOf(errors.moments_DD[i], errors.channels[i]);
        errors.values[i] = StrongestDirections(sample.values.Moments(), c.head_dim,
                                               c.head_dim / kChannelsPerDirection);
      }
      std::lock_guard<std::mutex> lock(progress);
      on_head();
    }
  });
  return errors;
}

Result<Classes> AllocateFrame(const Errors& errors, double bits, bool joint) {
  std::vector<ChannelHead> heads;
  for (std::size_t i = 0; i < errors.channels.size(); ++i) {
    heads.push_back({&errors.channels[i], errors.weight_D[i]});
  }
  if (joint) return AllocateChannelWidths(heads, bits);
  Classes classes;
  for (const ChannelHead& head : heads) {
    PHASOR_ASSIGN_OR_RETURN(Classes one, AllocateChannelWidths({&head, 1}, bits));
    classes.push_back(std::move(one[0]));
  }
  return classes;
}

Calibration Begin(const LoadedModel& model, int64_t n_tokens) {
  Calibration out;
  out.fingerprint = WeightFingerprint(model.file().Weights(), model.config());
  out.n_layers = model.config().n_layers;
  out.n_kv_heads = model.config().n_kv_heads;
  out.n_tokens = n_tokens;
  return out;
}

// Where they were made, for the frame codecs.
void AddMoments(const Errors& errors, Calibration* out) {
  if (errors.moments_DD.empty() || errors.moments_DD[0].empty()) return;
  out->query_moments.n_channels = errors.channels[0].n_channels;
  for (const auto& moments_DD : errors.moments_DD) out->query_moments.Append(moments_DD);
}

// What goes with widths of values alone.
void AddDirections(const Errors& errors, Calibration* out) {
  out->value_directions.n_channels = errors.channels[0].n_channels;
  out->value_directions.n_directions = errors.channels[0].n_channels / kChannelsPerDirection;
  for (const Directions& d : errors.values) {
    out->value_directions.Append(d.direction_ND, d.factor_N);
  }
}

void AddSet(const std::string& codec, double bits, const Classes& classes, Calibration* out) {
  CalibrationSet set = {codec, bits, static_cast<int>(classes[0].size()), {}};
  for (const auto& head : classes) set.classes.insert(set.classes.end(), head.begin(), head.end());
  out->sets.push_back(std::move(set));
}

}  // namespace

namespace {

// What a text says about keys, queries and values.
struct Reading {
  Collector collector;
  Errors errors;
};

Result<std::unique_ptr<Reading>> ReadText(const LoadedModel& model, std::span<const int32_t> tokens,
                                          const CalibrateOptions& options, bool wants_frame,
                                          bool wants_polar) {
  const ModelConfig& c = model.config();
  const auto n = static_cast<int64_t>(tokens.size());
  if (n < kMinTokens) {
    return InvalidArgument("calibrate: expected a text of at least " + std::to_string(kMinTokens) +
                           " tokens, found " + std::to_string(n));
  }
  PHASOR_RETURN_IF_ERROR(CheckLength(c, n));
  SessionOptions session_options;
  session_options.n_ctx = n;
  session_options.type_k = session_options.type_v = "f16";
  PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(model, session_options));
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable phases, MakePhaseTable(c.rope));
  const std::vector<float> omega_P = RadiansPerToken(phases);
  std::unique_ptr<Reading> reading(new Reading{Collector(c, omega_P, options.n_sink), {}});
  const AttentionObserver observer = [&](int layer, int count, const float* q, const float* k,
                                         const float* v) {
    reading->collector.Observe(layer, count, q, k, v);
  };
  AppendOptions append;
  append.observer = &observer;
  append.cancel = options.cancel;
  const int64_t n_heads = static_cast<int64_t>(c.n_layers) * c.n_kv_heads;
  // Reading is about half the work, measuring errors the other half.
  append.on_progress = [&](int64_t done, int64_t total) {
    if (options.on_progress) options.on_progress(done * n_heads / total, 2 * n_heads);
  };
  PHASOR_RETURN_IF_ERROR(session->Append(tokens, append));
  int64_t done = 0;
  reading->errors =
      MeasureErrors(model, reading->collector, omega_P, wants_frame, wants_polar, [&] {
        if (options.on_progress) options.on_progress(n_heads + ++done, 2 * n_heads);
      });
  return reading;
}

}  // namespace

Result<Calibration> Calibrate(const LoadedModel& model, std::span<const int32_t> tokens,
                              const CalibrateOptions& options) {
  PHASOR_RETURN_IF_ERROR(CheckBudgets(options.budgets));
  auto wants = [&](auto&& codec) {
    return std::any_of(options.budgets.begin(), options.budgets.end(),
                       [&](const CalibrateBudget& b) { return codec(b.codec); });
  };
  PHASOR_ASSIGN_OR_RETURN(const auto reading,
                          ReadText(model, tokens, options, wants(IsFrame),
                                   wants([](const auto& id) { return id == "polar"; })));
  const Errors& errors = reading->errors;
  Calibration out = Begin(model, static_cast<int64_t>(tokens.size()));
  AddMoments(errors, &out);
  for (const CalibrateBudget& budget : options.budgets) {
    PHASOR_ASSIGN_OR_RETURN(const Classes classes,
                            IsFrame(budget.codec)
                                ? AllocateFrame(errors, budget.bits_per_element, options.joint)
                                : AllocatePolar(errors.pairs, reading->collector,
                                                budget.bits_per_element, options.joint, {}));
    AddSet(budget.codec, budget.bits_per_element, classes, &out);
  }
  return out;
}

Result<Calibration> CalibrateAround(const LoadedModel& model, std::span<const int32_t> tokens,
                                    const CalibrateOptions& options, const Calibration& widths) {
  Calibration out = Begin(model, static_cast<int64_t>(tokens.size()));
  PHASOR_RETURN_IF_ERROR(widths.CheckFits(model.config(), out.fingerprint));
  PHASOR_ASSIGN_OR_RETURN(const auto reading, ReadText(model, tokens, options, true, false));
  out.sets = widths.sets;
  AddMoments(reading->errors, &out);
  AddDirections(reading->errors, &out);
  return out;
}

namespace {

// A share of what the losses say that goes to what score errors alone say, and to all heads of
// values alike: a head that this text never needs may be needed by another.
constexpr double kEvenShare = 0.1;
constexpr int kMeasuredValueBits = 3;

// Keys and values that share one budget, as many bits as 4.15 (3.14) for keys, grids included, and
// 4 (3) with a scale for values.
struct SharedBudget {
  const char *key_codec, *value_codec;
  double code_bits;
};
constexpr SharedBudget kSharedBudgets[] = {{"frame4", "q4_head", 3.95},
                                           {"frame3", "q3_head", 2.945}};

// Mean squared error of a head's values in every width.
Result<ValueHead> MeasureValueErrors(std::span<const float> v_TD, KvCodecParams params) {
  const int D = params.head_dim;
  const auto n_tokens = static_cast<int64_t>(v_TD.size()) / D;
  ValueHead out = {};
  std::vector<float> exact(static_cast<std::size_t>(kPageTokens) * D), stored(exact.size());
  for (std::size_t w = 0; w < std::size(kValueWidths); ++w) {
    const uint8_t bits = kValueWidths[w];
    params.classes = {&bits, 1};
    PHASOR_ASSIGN_OR_RETURN(const auto codec, MakeKvCodec("q4_head", params));
    AlignedBuffer<std::byte> page(codec->PageBytes());
    double sum = 0;
    for (int64_t first = 0; first < n_tokens; first += kPageTokens) {
      const int n = static_cast<int>(std::min<int64_t>(n_tokens - first, kPageTokens));
      std::copy_n(v_TD.begin() + first * D, n * D, exact.begin());
      codec->Rotate(exact.data(), n);
      codec->EncodePage(exact.data(), n, page.data());
      codec->DecodePage(page.data(), n, stored.data());
      codec->Unrotate(stored.data(), n);
      std::copy_n(v_TD.begin() + first * D, n * D, exact.begin());
      for (int i = 0; i < n * D; ++i) {
        sum += (static_cast<double>(stored[i]) - exact[i]) * (stored[i] - exact[i]);
      }
    }
    out.cost[w] = sum / static_cast<double>(v_TD.size());
  }
  return out;
}

// What a head's loss counts: its shares of all that is lost in recall and in prose.
class LossShares {
 public:
  explicit LossShares(const HeadLosses& losses) {
    for (const auto* side : {&losses.keys, &losses.values}) {
      for (const HeadLoss& l : *side) {
        recall_ += std::max(0.0, l.recall);
        prose_ += std::max(0.0, l.prose);
      }
    }
  }
  double Of(const HeadLoss& l) const {
    return (recall_ > 0 ? std::max(0.0, l.recall) / recall_ : 0) +
           (prose_ > 0 ? std::max(0.0, l.prose) / prose_ : 0);
  }
  std::vector<double> Of(const std::vector<HeadLoss>& losses) const {
    std::vector<double> shares;
    for (const HeadLoss& l : losses) shares.push_back(Of(l));
    return shares;
  }

 private:
  double recall_ = 0, prose_ = 0;
};

// shares -> (1 - kEvenShare) shares + kEvenShare of their sum by `even`, which need not sum to 1.
void BlendIn(const std::vector<double>& even, std::vector<double>* shares) {
  const double total = std::accumulate(shares->begin(), shares->end(), 0.0);
  const double all = std::accumulate(even.begin(), even.end(), 0.0);
  for (std::size_t i = 0; i < even.size(); ++i) {
    (*shares)[i] *= 1 - kEvenShare;
    if (all > 0) (*shares)[i] += kEvenShare * total * even[i] / all;
  }
}

// Sets the importance of keys, which had these widths when the losses were measured, and the costs
// of values, which are squared errors so far.
void Weigh(const HeadLosses& losses, const Classes& measured, std::vector<ChannelHead>* keys,
           std::vector<ValueHead>* values) {
  const LossShares shares(losses);
  std::vector<double> of_keys = shares.Of(losses.keys), of_values = shares.Of(losses.values);
  std::vector<double> errors;
  for (std::size_t i = 0; i < keys->size(); ++i) {
    errors.push_back(ScoreError((*keys)[i], measured[i]));
  }
  BlendIn(errors, &of_keys);
  BlendIn(std::vector<double>(values->size(), 1.0), &of_values);
  for (std::size_t i = 0; i < keys->size(); ++i) {
    (*keys)[i].importance = errors[i] > 0 ? of_keys[i] / errors[i] : 0;
    ValueHead& v = (*values)[i];
    static_assert(kValueWidths[0] == kMeasuredValueBits);
    const double scale = v.cost[0] > 0 ? of_values[i] / v.cost[0] : 0;
    for (double& cost : v.cost) cost *= scale;
  }
}

double MeanWidth(const Classes& widths) {
  double sum = 0, n = 0;
  for (const auto& head : widths) {
    sum += std::accumulate(head.begin(), head.end(), 0.0);
    n += static_cast<double>(head.size());
  }
  return sum / n;
}

Status AddSharedSets(std::span<const ChannelHead> keys, std::span<const ValueHead> values,
                     Calibration* out) {
  for (const SharedBudget& budget : kSharedBudgets) {
    PHASOR_ASSIGN_OR_RETURN(const KeyAndValueWidths widths,
                            AllocateKeysAndValues(keys, values, budget.code_bits));
    Classes value_classes;
    for (const uint8_t bits : widths.value_H) value_classes.push_back({bits});
    const auto head_dim = static_cast<double>(widths.key_HD[0].size());
    AddSet(budget.key_codec, MeanWidth(widths.key_HD) + kFrameGridBits, widths.key_HD, out);
    AddSet(budget.value_codec, MeanWidth(value_classes) + 16.0 / head_dim, value_classes, out);
  }
  return Status::Ok();
}

}  // namespace

Result<Calibration> CalibrateByLoss(const LoadedModel& model, const RecallText& text,
                                    const CalibrateOptions& options, HeadLosses* losses) {
  const ModelConfig& c = model.config();
  const int n_kv = c.n_kv_heads, n_heads = c.n_layers * n_kv;
  PHASOR_RETURN_IF_ERROR(CheckLength(c, static_cast<int64_t>(text.tokens.size())));
  int64_t done = 0;
  auto step = [&] {
    if (options.on_progress) options.on_progress(++done, 3 * n_heads);
  };
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable phases, MakePhaseTable(c.rope));
  const std::vector<float> omega_P = RadiansPerToken(phases);
  Collector collector(c, omega_P, options.n_sink);
  const AttentionObserver observer = [&](int layer, int count, const float* q, const float* k,
                                         const float* v) {
    collector.Observe(layer, count, q, k, v);
  };
  PHASOR_ASSIGN_OR_RETURN(const auto meter,
                          SensitivityMeter::Make(model, text, &observer, options.cancel));
  const Errors errors = MeasureErrors(model, collector, omega_P, true, true, step);
  PHASOR_ASSIGN_OR_RETURN(const Classes measured,
                          AllocateFrame(errors, DefaultBits("frame3"), true));
  HeadLosses found;
  std::vector<ChannelHead> keys;
  std::vector<ValueHead> values;
  for (int i = 0; i < n_heads; ++i) {
    const int layer = i / n_kv, head = i % n_kv;
    auto measure = [&](const char* id, KvCodecParams params) -> Result<HeadLoss> {
      PHASOR_ASSIGN_OR_RETURN(auto codec, MakeKvCodec(id, params));
      std::vector<HeadCodec> changed;
      changed.push_back({layer, head, params.role, std::move(codec)});
      step();
      return meter->Measure(std::move(changed));
    };
    KvCodecParams k = HeadParams(c, omega_P, KvRole::kKey);
    KvCodecParams v = HeadParams(c, omega_P, KvRole::kValue);
    v.direction_ND = errors.values[i].direction_ND;
    v.factor_N = errors.values[i].factor_N;
    PHASOR_ASSIGN_OR_RETURN(const ValueHead value_errors,
                            MeasureValueErrors(meter->values(layer, head), v));
    k.classes = measured[i];
    const std::vector<float> moments(errors.moments_DD[i].begin(), errors.moments_DD[i].end());
    k.query_moments_DD = moments;
    PHASOR_ASSIGN_OR_RETURN(const HeadLoss of_keys, measure("frame3", k));
    PHASOR_ASSIGN_OR_RETURN(const HeadLoss of_values, measure("q3_head", v));
    found.keys.push_back(of_keys);
    found.values.push_back(of_values);
    keys.push_back({&errors.channels[i], errors.weight_D[i]});
    values.push_back(value_errors);
  }
  Weigh(found, measured, &keys, &values);
  Calibration out = Begin(model, static_cast<int64_t>(text.tokens.size()));
  AddMoments(errors, &out);
  AddDirections(errors, &out);
  PHASOR_RETURN_IF_ERROR(AddSharedSets(keys, values, &out));
  // Polar has no feedback: the loss is of the error that the same widths had without.
  std::vector<double> importance;
  for (int i = 0; i < n_heads; ++i) {
    const ChannelHead alone = {&errors.channels[i], collector.head(i).weight_D};
    const double before = ScoreError(alone, measured[i]), after = ScoreError(keys[i], measured[i]);
    importance.push_back(before > 0 ? keys[i].importance * after / before : 0);
  }
  const double polar_bits = DefaultBits("polar");
  PHASOR_ASSIGN_OR_RETURN(const Classes polar,
                          AllocatePolar(errors.pairs, collector, polar_bits, true, importance));
  AddSet("polar", polar_bits, polar, &out);
  if (losses != nullptr) *losses = std::move(found);
  return out;
}

}  // namespace phasor
