#include "engine/calibrate.h"

#include <algorithm>
#include <mutex>

#include "engine/model_file.h"
#include "engine/session_codecs.h"
#include "kvcodec/frame_allocation.h"
#include "kvcodec/width_allocation.h"
#include "registry/position_table.h"

namespace phasor {
namespace {

constexpr int64_t kMinTokens = 256;

// Keys and squared queries of one KV head, gathered while the text is read.
struct HeadSample {
  std::vector<float> keys_TD;
  std::vector<double> energy_P;  // per pair, both channels together
  std::vector<double> weight_D;  // per channel; half the pair's where RoPE turns it
};

class Collector {
 public:
  Collector(const ModelConfig& config, int n_sink) : c_(config), n_sink_(n_sink) {
    heads_.resize(static_cast<std::size_t>(c_.n_layers) * c_.n_kv_heads);
    for (HeadSample& h : heads_) {
      h.energy_P.assign((c_.head_dim + 1) / 2, 0.0);
      h.weight_D.assign(c_.head_dim, 0.0);
    }
  }

  void Observe(int layer, int n, const float* q_THD, const float* k_THD) {
    const int skip = static_cast<int>(std::max<int64_t>(0, n_sink_ - position_));
    for (int t = skip; t < n; ++t) {
      for (int h = 0; h < c_.n_kv_heads; ++h) {
        HeadSample& sample = heads_[static_cast<std::size_t>(layer) * c_.n_kv_heads + h];
        const float* k = k_THD + (static_cast<int64_t>(t) * c_.n_kv_heads + h) * c_.head_dim;
        sample.keys_TD.insert(sample.keys_TD.end(), k, k + c_.head_dim);
        const int g = c_.group();
        for (int i = 0; i < g; ++i) {
          AddEnergy(q_THD + (static_cast<int64_t>(t) * c_.n_heads + h * g + i) * c_.head_dim,
                    &sample);
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

Result<Classes> AllocatePolar(const std::vector<PairErrorTable>& errors, const Collector& collector,
                              double bits, bool joint) {
  std::vector<WidthHead> heads;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    heads.push_back({&errors[i], collector.head(static_cast<int>(i)).energy_P});
  }
  if (joint) return AllocateWidthsJointly(heads, bits);
  Classes classes;
  for (const WidthHead& head : heads) {
    PHASOR_ASSIGN_OR_RETURN(std::vector<uint8_t> one, AllocateWidths(head, bits));
    classes.push_back(std::move(one));
  }
  return classes;
}

Result<Classes> AllocateFrame(const std::vector<ChannelErrorTable>& errors,
                              const Collector& collector, double bits, bool joint) {
  std::vector<ChannelHead> heads;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    heads.push_back({&errors[i], collector.head(static_cast<int>(i)).weight_D});
  }
  if (joint) return AllocateChannelWidths(heads, bits);
  Classes classes;
  for (const ChannelHead& head : heads) {
    PHASOR_ASSIGN_OR_RETURN(Classes one, AllocateChannelWidths({&head, 1}, bits));
    classes.push_back(std::move(one[0]));
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

}  // namespace

std::vector<CalibrateBudget> DefaultBudgets() {
  return {{"frame4", 4.15}, {"frame3", 3.14}, {"polar", 4.15}};
}

Result<Calibration> Calibrate(const LoadedModel& model, std::span<const int32_t> tokens,
                              const CalibrateOptions& options) {
  const ModelConfig& c = model.config();
  const auto n = static_cast<int64_t>(tokens.size());
  PHASOR_RETURN_IF_ERROR(CheckBudgets(options.budgets));
  if (n < kMinTokens) {
    return InvalidArgument("calibrate: expected a text of at least " + std::to_string(kMinTokens) +
                           " tokens, found " + std::to_string(n));
  }
  if (n > c.n_ctx_train) {
    return InvalidArgument("calibrate: expected at most the trained context of " +
                           std::to_string(c.n_ctx_train) + " tokens, found " + std::to_string(n));
  }
  SessionOptions session_options;
  session_options.n_ctx = n;
  session_options.type_k = session_options.type_v = "f16";
  PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(model, session_options));
  Collector collector(c, options.n_sink);
  const AttentionObserver observer = [&](int layer, int count, const float* q, const float* k,
                                         const float*) { collector.Observe(layer, count, q, k); };
  AppendOptions append;
  append.observer = &observer;
  append.cancel = options.cancel;
  const int64_t n_heads = static_cast<int64_t>(c.n_layers) * c.n_kv_heads;
  // Reading is about half the work, measuring errors the other half.
  append.on_progress = [&](int64_t done, int64_t total) {
    if (options.on_progress) options.on_progress(done * n_heads / total, 2 * n_heads);
  };
  PHASOR_RETURN_IF_ERROR(session->Append(tokens, append));
  auto wants = [&](auto&& codec) {
    return std::any_of(options.budgets.begin(), options.budgets.end(),
                       [&](const CalibrateBudget& b) { return codec(b.codec); });
  };
  const bool wants_frame = wants(IsFrame);
  const bool wants_polar = wants([](const std::string& id) { return id == "polar"; });
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable phases, MakePhaseTable(c.rope));
  const std::vector<float> omega_P = RadiansPerToken(phases);
  std::vector<PairErrorTable> pair_errors(n_heads);
  std::vector<ChannelErrorTable> channel_errors(n_heads);
  std::atomic<int64_t> done{0};
  std::mutex progress;
  model.pool().ParallelFor(n_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const HeadSample& sample = collector.head(static_cast<int>(i));
      const auto n_keys = static_cast<int64_t>(sample.keys_TD.size()) / c.head_dim;
      KvCodecParams params;
      params.head_dim = c.head_dim;
      params.n_rot = c.rope.n_rot;
      params.pairing = c.pairing;
      params.omega_P = omega_P;
      const float* keys = sample.keys_TD.data();
      if (wants_polar) pair_errors[i] = MeasurePairErrors(keys, n_keys, params);
      if (wants_frame) channel_errors[i] = MeasureChannelErrors(keys, n_keys, params);
      std::lock_guard<std::mutex> lock(progress);
      if (options.on_progress) options.on_progress(n_heads + ++done, 2 * n_heads);
    }
  });
  Calibration out;
  out.fingerprint = WeightFingerprint(model.file().Weights(), c);
  out.n_layers = c.n_layers;
  out.n_kv_heads = c.n_kv_heads;
  out.n_tokens = n;
  for (const CalibrateBudget& budget : options.budgets) {
    const bool frame = IsFrame(budget.codec);
    PHASOR_ASSIGN_OR_RETURN(
        const Classes classes,
        frame ? AllocateFrame(channel_errors, collector, budget.bits_per_element, options.joint)
              : AllocatePolar(pair_errors, collector, budget.bits_per_element, options.joint));
    CalibrationSet set = {
        budget.codec, budget.bits_per_element, frame ? c.head_dim : (c.head_dim + 1) / 2, {}};
    for (const auto& head : classes)
      set.classes.insert(set.classes.end(), head.begin(), head.end());
    out.sets.push_back(std::move(set));
  }
  return out;
}

}  // namespace phasor
