#include "eval/experiments/bf16_drift.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/rng.h"
#include "ops/vector_ops.h"
#include "registry/position_table.h"
#include "tensor/half.h"

namespace phasor::eval {
namespace {

constexpr int64_t kShift = 16;

float Bf16(float x) { return Bf16ToF32(F32ToBf16(x)); }

// Turns a row in half-split pairs by frequencies in radians.
void Turn(RopeArithmetic arithmetic, const PhaseTable& table, std::span<const float> omega_P,
          int64_t position, std::vector<float>* row) {
  const auto n_pairs = static_cast<int>(omega_P.size());
  const auto D = static_cast<int>(row->size());
  if (arithmetic == RopeArithmetic::kTurns) {
    std::vector<float> cos(omega_P.size()), sin(omega_P.size());
    RopeAngles(table, position, cos.data(), sin.data());
    ApplyRope(row->data(), 1, D, 2 * n_pairs, RopePairing::kHalfSplit, cos.data(), sin.data());
    return;
  }
  const bool bf16 = arithmetic == RopeArithmetic::kBf16;
  auto p = static_cast<float>(position);
  if (arithmetic == RopeArithmetic::kBf16Positions) p = Bf16(p);
  for (int j = 0; j < n_pairs; ++j) {
    const float angle = p * omega_P[j];
    float c = std::cos(angle), s = std::sin(angle);
    if (bf16) {
      c = Bf16(c);
      s = Bf16(s);
    }
    float& a = (*row)[j];
    float& b = (*row)[j + n_pairs];
    const float x = a * c - b * s, y = a * s + b * c;
    a = bf16 ? Bf16(x) : x;
    b = bf16 ? Bf16(y) : y;
  }
}

double Dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

std::vector<float> Frequencies(const PhaseTable& table) {
  std::vector<float> omega;
  for (uint64_t step : table.step_P) {
    omega.push_back(
        static_cast<float>(static_cast<double>(step) * 0x1.0p-64 * 2 * std::numbers::pi));
  }
  return omega;
}

PhaseTable RopeTable(const DriftOptions& o) {
  RopeParams params;
  params.n_rot = o.head_dim;
  params.theta_base = o.theta_base;
  return MakePhaseTable(params).value();
}

}  // namespace

double MeanDrift(RopeArithmetic arithmetic, int64_t distance, const DriftOptions& o) {
  const PhaseTable table = RopeTable(o);
  const std::vector<float> omega = Frequencies(table);
  Rng rng(o.seed);
  double sum = 0;
  for (int i = 0; i < o.n_pairs; ++i) {
    std::vector<float> q(o.head_dim), k(o.head_dim);
    for (float& x : q) x = static_cast<float>(rng.Normal());
    for (float& x : k) x = static_cast<float>(rng.Normal());
    if (arithmetic == RopeArithmetic::kBf16) {
      for (float& x : q) x = Bf16(x);
      for (float& x : k) x = Bf16(x);
    }
    double logit[2];
    for (int64_t side = 0; side < 2; ++side) {
      std::vector<float> a = q, b = k;
      Turn(arithmetic, table, omega, side * o.shift + distance, &a);
      Turn(arithmetic, table, omega, side * o.shift, &b);
      logit[side] = Dot(a, b) / std::sqrt(static_cast<double>(o.head_dim));
    }
    sum += std::abs(logit[0] - logit[1]);
  }
  return sum / o.n_pairs;
}

namespace {

// Rows [n, n_heads, D] of one layer as the observer saw them, turned back to position 0, rounded to
// bf16 and turned in bf16 at positions + shift. The pairing is brought to half-split on the way.
class Rows {
 public:
  Rows(const ModelConfig& config, const PhaseTable& table, const float* rows, int n, int n_heads)
      : n_heads_(n_heads), D_(config.head_dim), P_(config.rope.n_rot / 2) {
    const std::vector<float> omega = Frequencies(table);
    std::vector<float> cos(P_), sin(P_);
    for (int64_t shift : {int64_t{0}, kShift}) {
      std::vector<float>& out = turned_[shift == 0 ? 0 : 1];
      for (int t = 0; t < n; ++t) {
        RopeAngles(table, t, cos.data(), sin.data());
        for (float& s : sin) s = -s;
        // The attention factor is in both passes: once on the way there, once back.
        const float factor = 1 / (table.attention_factor * table.attention_factor);
        for (int h = 0; h < n_heads; ++h) {
          const float* from = rows + (static_cast<int64_t>(t) * n_heads + h) * D_;
          std::vector<float> row(from, from + D_);
          ApplyRope(row.data(), 1, D_, config.rope.n_rot, config.pairing, cos.data(), sin.data());
          std::vector<float> pairs = HalfSplit(config.pairing, row);
          for (float& x : pairs) x = Bf16(x * factor);
          std::vector<float> turning(pairs.begin(), pairs.begin() + 2 * P_);
          Turn(RopeArithmetic::kBf16, table, omega, t + shift, &turning);
          std::copy(turning.begin(), turning.end(), pairs.begin());
          out.insert(out.end(), pairs.begin(), pairs.end());
        }
      }
    }
  }

  std::span<const float> Row(int side, int64_t t, int head) const {
    return std::span(turned_[side])
        .subspan(static_cast<std::size_t>((t * n_heads_ + head) * D_),
                 static_cast<std::size_t>(D_));
  }

 private:
  std::vector<float> HalfSplit(RopePairing pairing, const std::vector<float>& row) const {
    if (pairing == RopePairing::kHalfSplit) return row;
    std::vector<float> out = row;
    for (int j = 0; j < P_; ++j) {
      out[j] = row[2 * j];
      out[j + P_] = row[2 * j + 1];
    }
    return out;
  }

  int n_heads_, D_, P_;
  std::vector<float> turned_[2];  // at +0 and at +kShift
};

// Adds |weight - weight| of every key, summed over the queries of one head.
void AddHead(const Rows& q, const Rows& k, int n, int head, int kv_head, int D,
             std::vector<double>* by_key) {
  std::vector<double> weight[2];
  for (int t = 0; t < n; ++t) {
    for (int side = 0; side < 2; ++side) {
      weight[side].assign(static_cast<std::size_t>(t) + 1, 0);
      double top = -INFINITY, sum = 0;
      for (int i = 0; i <= t; ++i) {
        weight[side][i] =
            Dot(q.Row(side, t, head), k.Row(side, i, kv_head)) / std::sqrt(static_cast<double>(D));
        top = std::max(top, weight[side][i]);
      }
      for (double& w : weight[side]) sum += w = std::exp(w - top);
      for (double& w : weight[side]) w /= sum;
    }
    for (int i = 0; i <= t; ++i) (*by_key)[i] += std::abs(weight[0][i] - weight[1][i]);
  }
}

}  // namespace

Result<FirstKeyDrift> MeasureFirstKeyDrift(const LoadedModel& model,
                                           std::span<const int32_t> tokens) {
  const ModelConfig& c = model.config();
  const auto n = static_cast<int>(tokens.size());
  SessionOptions options;
  options.n_ctx = n;
  options.n_batch = n;
  options.type_k = options.type_v = "f32";
  PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(model, options));
  std::vector<double> by_key(tokens.size(), 0);
  const AttentionObserver observer = [&](int, int n_rows, const float* q, const float* k,
                                         const float*) {
    const PhaseTable& table = model.transformer().phases();
    const Rows queries(c, table, q, n_rows, c.n_heads), keys(c, table, k, n_rows, c.n_kv_heads);
    for (int h = 0; h < c.n_heads; ++h) {
      AddHead(queries, keys, n_rows, h, h / c.group(), c.head_dim, &by_key);
    }
  };
  AppendOptions append;
  append.observer = &observer;
  PHASOR_RETURN_IF_ERROR(session->Append(tokens, append));
  double total = 0;
  for (double x : by_key) total += x;
  return FirstKeyDrift{n, by_key[0] / total,
                       total / (static_cast<double>(n) * c.n_heads * c.n_layers)};
}

}  // namespace phasor::eval
