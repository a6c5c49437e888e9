#include "model/dense_reference.h"

#include <cmath>
#include <numbers>

#include "base/check.h"

namespace phasor {
namespace {

class DenseReference {
 public:
  DenseReference(const Transformer& transformer, const DenseReferenceInput& input, ThreadPool& pool)
      : config_(transformer.config()),
        weights_(transformer.weights()),
        phases_(transformer.phases()),
        input_(input),
        pool_(pool),
        n_(static_cast<int64_t>(input.tokens.size())) {}

  std::vector<float> Run() {
    const int64_t d = config_.d_model;
    x_.resize(Size(d));
    const int64_t row_bytes = RowBytes(weights_.embedding.dtype(), d);
    for (int64_t t = 0; t < n_; ++t) {
      weights_.embedding_codec->decode(
          weights_.embedding.bytes.data() + input_.tokens[t] * row_bytes, d, x_.data() + t * d);
    }
    for (const LayerWeights& layer : weights_.layers) {
      AttentionBlock(layer);
      FeedForwardBlock(layer);
    }
    return Project(weights_.output, {}, Normed(weights_.output_norm));
  }

 private:
  std::size_t Size(int64_t width) const { return static_cast<std::size_t>(n_ * width); }

  static void Norm(const float* x, const std::vector<float>& weight, double eps, float* y) {
    double sum = 0;
    const auto n = static_cast<int64_t>(weight.size());
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
    const double scale = 1 / std::sqrt(sum / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(x[i] * scale * weight[i]);
  }

  std::vector<float> Normed(const std::vector<float>& weight) const {
    std::vector<float> y(x_.size());
    for (int64_t t = 0; t < n_; ++t) {
      Norm(x_.data() + t * config_.d_model, weight, config_.rms_eps,
           y.data() + t * config_.d_model);
    }
    return y;
  }

  std::vector<float> Project(const PackedMatrix& w, const std::vector<float>& bias,
                             const std::vector<float>& x) {
    std::vector<float> y(Size(w.n_rows()));
    const MatMulJob job[] = {
        {.w = &w, .y = y.data(), .bias = bias.empty() ? nullptr : bias.data()}};
    MatMul(job, x.data(), 0, static_cast<int>(n_), scratch_, pool_);
    return y;
  }

  void Add(const std::vector<float>& y) {
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] += y[i];
  }

  // QK norm and RoPE of heads [n, n_heads, D].
  void Turn(int n_heads, const std::vector<float>& norm, std::vector<float>* rows) const {
    const int D = config_.head_dim, P = config_.rope.n_rot / 2;
    for (int64_t t = 0; t < n_; ++t) {
      const PositionTicks at =
          input_.positions.empty() ? t * kTicksPerPosition : input_.positions[t];
      for (int h = 0; h < n_heads; ++h) {
        float* row = rows->data() + (t * n_heads + h) * D;
        if (!norm.empty()) Norm(row, norm, config_.rms_eps, row);
        for (int j = 0; j < P; ++j) {
          const double angle = static_cast<double>(TurnsAt(phases_.step_P[j], at)) * 0x1.0p-64 * 2 *
                               std::numbers::pi;
          const bool halves = config_.pairing == RopePairing::kHalfSplit;
          float& a = row[halves ? j : 2 * j];
          float& b = row[halves ? j + P : 2 * j + 1];
          const double c = std::cos(angle) * phases_.attention_factor;
          const double s = std::sin(angle) * phases_.attention_factor;
          const double x = a, y = b;
          a = static_cast<float>(x * c - y * s);
          b = static_cast<float>(x * s + y * c);
        }
      }
    }
  }

  bool Sees(int64_t query, int64_t key) const {
    if (query == key) return true;
    const bool in_window = config_.sliding_window <= 0 || query - key < config_.sliding_window;
    return in_window && (input_.sees ? input_.sees(query, key) : key < query);
  }

  // One query head's result for one token, [D].
  void Attend(const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v,
              int64_t t, int head, float* out) const {
    const int D = config_.head_dim, n_kv = config_.n_kv_heads, kv = head / config_.group();
    const float* query = q.data() + (t * config_.n_heads + head) * D;
    std::vector<double> score(static_cast<std::size_t>(n_), -INFINITY), sum(D, 0.0);
    double top = -INFINITY, total = 0;
    for (int64_t i = 0; i < n_; ++i) {
      if (!Sees(t, i)) continue;
      double dot = 0;
      for (int e = 0; e < D; ++e) dot += static_cast<double>(query[e]) * k[(i * n_kv + kv) * D + e];
      score[i] = dot / std::sqrt(static_cast<double>(D));
      top = std::max(top, score[i]);
    }
    for (int64_t i = 0; i < n_; ++i) {
      if (score[i] == -INFINITY) continue;
      const double weight = std::exp(score[i] - top);
      total += weight;
      for (int e = 0; e < D; ++e) sum[e] += weight * v[(i * n_kv + kv) * D + e];
    }
    for (int e = 0; e < D; ++e) out[e] = static_cast<float>(sum[e] / total);
  }

  void AttentionBlock(const LayerWeights& w) {
    const std::vector<float> h = Normed(w.attn_norm);
    std::vector<float> q = Project(w.q, w.q_bias, h), k = Project(w.k, w.k_bias, h);
    const std::vector<float> v = Project(w.v, w.v_bias, h);
    Turn(config_.n_heads, w.q_norm, &q);
    Turn(config_.n_kv_heads, w.k_norm, &k);
    std::vector<float> out(q.size());
    pool_.ParallelFor(n_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int head = 0; head < config_.n_heads; ++head) {
          Attend(q, k, v, t, head, out.data() + (t * config_.n_heads + head) * config_.head_dim);
        }
      }
    });
    Add(Project(w.o, {}, out));
  }

  void FeedForwardBlock(const LayerWeights& w) {
    const std::vector<float> h = Normed(w.ffn_norm);
    std::vector<float> gate = Project(w.gate, {}, h);
    const std::vector<float> up = Project(w.up, {}, h);
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double g = gate[i];
      gate[i] = static_cast<float>(g / (1 + std::exp(-g)) * up[i]);
    }
    Add(Project(w.down, {}, gate));
  }

  const ModelConfig& config_;
  const ModelWeights& weights_;
  const PhaseTable& phases_;
  const DenseReferenceInput& input_;
  ThreadPool& pool_;
  MatMulScratch scratch_;
  int64_t n_;
  std::vector<float> x_;  // residual stream [n, d_model]
};

}  // namespace

std::vector<float> DenseReferenceLogits(const Transformer& transformer,
                                        const DenseReferenceInput& input, ThreadPool& pool) {
  PHASOR_CHECK(!input.tokens.empty());
  PHASOR_CHECK(input.positions.empty() || input.positions.size() == input.tokens.size());
  return DenseReference(transformer, input, pool).Run();
}

}  // namespace phasor
