#include "model/transformer.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/aligned.h"
#include "base/check.h"
#include "ops/vector_ops.h"

namespace phasor {
namespace {

// Rows of logits computed at a time when all are wanted: bounds memory at large vocabularies.
constexpr int kLogitRows = 64;
// Below this many tokens, element-wise work runs on the calling thread: starting the others costs
// more than it saves.
constexpr int kSerialTokens = 4;
// Rows of a head that a thread stores at a time.
constexpr int kAppendTokens = 64;

void ForTokens(ThreadPool& pool, int n, const std::function<void(int64_t, int64_t)>& fn) {
  if (n < kSerialTokens) {
    fn(0, n);
  } else {
    pool.ParallelFor(n, 4, fn);
  }
}

}  // namespace

struct ForwardScratch::Impl {
  AlignedBuffer<float> x, h;            // residual stream, normed input [T, d_model]
  AlignedBuffer<float> q, k, v, o;      // [T, heads * D]
  AlignedBuffer<float> gate, up;        // [T, d_ff]
  AlignedBuffer<float> cos_TP, sin_TP;  // [T, P]
  AlignedBuffer<float> logits;          // [rows, n_vocab]
  struct PerThread {
    AlignedBuffer<float> k_ND, v_ND;
  };
  std::vector<PerThread> threads;
  MatMulScratch matmul;
  AttentionScratch attention;
};

ForwardScratch::ForwardScratch() : impl_(std::make_unique<Impl>()) {}
ForwardScratch::~ForwardScratch() = default;

Status Transformer::Forward(std::span<const int32_t> tokens, KvCache& cache,
                            const ForwardOptions& options, ForwardScratch& scratch,
                            ThreadPool& pool) const {
  const BatchItem item[] = {{&cache, tokens, options.positions}};
  return ForwardBatch(item, options, scratch, pool);
}

Status Transformer::CheckItem(const BatchItem& item) const {
  PHASOR_CHECK(!item.tokens.empty());
  PHASOR_CHECK(item.positions.empty() || item.positions.size() == item.tokens.size());
  for (int32_t id : item.tokens) {
    if (id < 0 || id >= config_.n_vocab) {
      return InvalidArgument("model: expected token ids from 0 to " +
                             std::to_string(config_.n_vocab - 1) + ", found " + std::to_string(id));
    }
  }
  return Status::Ok();
}

Status Transformer::ForwardBatch(std::span<const BatchItem> items, const ForwardOptions& options,
                                 ForwardScratch& scratch, ThreadPool& pool) const {
  int n = 0;
  for (const BatchItem& item : items) {
    PHASOR_RETURN_IF_ERROR(CheckItem(item));
    n += static_cast<int>(item.tokens.size());
  }
  for (const BatchItem& item : items) {
    PHASOR_RETURN_IF_ERROR(
        item.cache->Reserve(static_cast<int>(item.tokens.size()), item.positions));
  }
  ForwardScratch::Impl& s = scratch.impl();
  const int64_t d = config_.d_model, D = config_.head_dim, P = config_.rope.n_rot / 2;
  try {
    s.x.Resize(n * d);
    s.h.Resize(n * d);
    s.q.Resize(n * config_.n_heads * D);
    s.o.Resize(n * config_.n_heads * D);
    s.k.Resize(n * config_.n_kv_heads * D);
    s.v.Resize(n * config_.n_kv_heads * D);
    s.gate.Resize(static_cast<std::size_t>(n) * config_.d_ff);
    s.up.Resize(static_cast<std::size_t>(n) * config_.d_ff);
    s.cos_TP.Resize(n * P);
    s.sin_TP.Resize(n * P);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("model: no memory for a batch of " + std::to_string(n) + " tokens");
  }
  s.threads.resize(pool.size());
  const WeightCodecInfo* codec = weights_.embedding_codec;
  const int64_t row_bytes = RowBytes(weights_.embedding.dtype(), d);
  int first = 0;
  for (const BatchItem& item : items) {
    const auto n_item = static_cast<int>(item.tokens.size());
    const std::span<const PositionTicks> positions = item.cache->stored_positions();
    ForTokens(pool, n_item, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        codec->decode(weights_.embedding.bytes.data() + item.tokens[t] * row_bytes, d,
                      s.x.data() + (first + t) * d);
        RopeAnglesAt(item.cache->schedule(), positions[t], s.cos_TP.data() + (first + t) * P,
                     s.sin_TP.data() + (first + t) * P);
      }
    });
    first += n_item;
  }
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    AttentionBlock(layer, n, items, options, s, pool);
    FeedForwardBlock(layer, n, s, pool);
  }
  for (const BatchItem& item : items) {
    item.cache->CommitAppend(static_cast<int>(item.tokens.size()));
    item.cache->Freeze(pool);
  }
  if (options.logits != LogitsWanted::kNone) Logits(items, options, s, pool);
  return Status::Ok();
}

// QK norm (where the model has it) and RoPE for tokens [first, last).
void Transformer::RotateHeads(int layer, int first, int last, ForwardScratch::Impl& s) const {
  const LayerWeights& w = weights_.layers[layer];
  const int D = config_.head_dim, P = config_.rope.n_rot / 2;
  auto rows = [&](AlignedBuffer<float>& x, int n_heads, const std::vector<float>& norm) {
    for (int t = first; t < last; ++t) {
      float* row = x.data() + static_cast<int64_t>(t) * n_heads * D;
      if (!norm.empty()) {
        for (int h = 0; h < n_heads; ++h) {
          RmsNorm(row + h * D, norm.data(), config_.rms_eps, D, row + h * D);
        }
      }
      ApplyRope(row, n_heads, D, config_.rope.n_rot, config_.pairing, s.cos_TP.data() + t * P,
                s.sin_TP.data() + t * P);
    }
  };
  rows(s.q, config_.n_heads, w.q_norm);
  rows(s.k, config_.n_kv_heads, w.k_norm);
}

// Stores keys and values of one item's tokens, rows [first, first + n) of the batch.
void Transformer::AppendRows(int layer, int first, int n, KvCache& cache, ForwardScratch::Impl& s,
                             ThreadPool& pool) const {
  const int D = config_.head_dim, n_kv = config_.n_kv_heads;
  // One head's rows of a run of tokens are gathered and stored by one thread: heads alone are too
  // few for the threads to finish together.
  const int n_runs = (n + kAppendTokens - 1) / kAppendTokens;
  std::atomic<int> next{0};
  auto append = [&](int thread) {
    auto& buffers = s.threads[thread];
    buffers.k_ND.Resize(static_cast<std::size_t>(kAppendTokens) * D);
    buffers.v_ND.Resize(static_cast<std::size_t>(kAppendTokens) * D);
    for (int i; (i = next.fetch_add(1)) < n_kv * n_runs;) {
      const int h = i / n_runs, begin = i % n_runs * kAppendTokens;
      const int count = std::min(kAppendTokens, n - begin);
      for (int t = 0; t < count; ++t) {
        const int64_t from = (static_cast<int64_t>(first + begin + t) * n_kv + h) * D;
        std::copy_n(s.k.data() + from, D, buffers.k_ND.data() + static_cast<int64_t>(t) * D);
        std::copy_n(s.v.data() + from, D, buffers.v_ND.data() + static_cast<int64_t>(t) * D);
      }
      cache.AppendHead(layer, h, buffers.k_ND.data(), buffers.v_ND.data(), count, begin);
    }
  };
  if (n < kSerialTokens) {
    append(0);
  } else {
    pool.RunSharing(append);
  }
}

void Transformer::AttentionBlock(int layer, int n, std::span<const BatchItem> items,
                                 const ForwardOptions& options, ForwardScratch::Impl& s,
                                 ThreadPool& pool) const {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t d = config_.d_model;
  const int D = config_.head_dim, n_kv = config_.n_kv_heads;
  ForTokens(pool, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      RmsNorm(s.x.data() + t * d, w.attn_norm.data(), config_.rms_eps, d, s.h.data() + t * d);
    }
  });
  auto bias = [](const std::vector<float>& b) { return b.empty() ? nullptr : b.data(); };
  const MatMulJob qkv[] = {{.w = &w.q, .y = s.q.data(), .bias = bias(w.q_bias)},
                           {.w = &w.k, .y = s.k.data(), .bias = bias(w.k_bias)},
                           {.w = &w.v, .y = s.v.data(), .bias = bias(w.v_bias)}};
  MatMul(qkv, s.h.data(), 0, n, s.matmul, pool);
  ForTokens(pool, n, [&](int64_t begin, int64_t end) {
    RotateHeads(layer, static_cast<int>(begin), static_cast<int>(end), s);
  });
  if (options.observer != nullptr) {
    (*options.observer)(layer, n, s.q.data(), s.k.data(), s.v.data());
  }
  const AttentionShape shape{config_.n_heads,
                             n_kv,
                             D,
                             1.0f / std::sqrt(static_cast<float>(D)),
                             config_.sliding_window,
                             weights_.precision,
                             options.score_codes};
  const int64_t row = static_cast<int64_t>(config_.n_heads) * D;
  int first = 0;
  for (const BatchItem& item : items) {
    const auto n_item = static_cast<int>(item.tokens.size());
    AppendRows(layer, first, n_item, *item.cache, s, pool);
    Attend(shape, *item.cache, layer, n_item, s.q.data() + first * row, s.o.data() + first * row,
           s.attention, pool);
    first += n_item;
  }
  const MatMulJob out[] = {{.w = &w.o, .y = s.x.data(), .accumulate = true}};
  MatMul(out, s.o.data(), 0, n, s.matmul, pool);
}

void Transformer::FeedForwardBlock(int layer, int n, ForwardScratch::Impl& s,
                                   ThreadPool& pool) const {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t d = config_.d_model, ff = config_.d_ff;
  ForTokens(pool, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      RmsNorm(s.x.data() + t * d, w.ffn_norm.data(), config_.rms_eps, d, s.h.data() + t * d);
    }
  });
  const MatMulJob gate_up[] = {{.w = &w.gate, .y = s.gate.data()}, {.w = &w.up, .y = s.up.data()}};
  MatMul(gate_up, s.h.data(), 0, n, s.matmul, pool);
  ForTokens(pool, n, [&](int64_t begin, int64_t end) {
    SwiGlu(s.gate.data() + begin * ff, s.up.data() + begin * ff, (end - begin) * ff,
           s.gate.data() + begin * ff);
  });
  const MatMulJob down[] = {{.w = &w.down, .y = s.x.data(), .accumulate = true}};
  MatMul(down, s.gate.data(), 0, n, s.matmul, pool);
}

void Transformer::Logits(std::span<const BatchItem> items, const ForwardOptions& options,
                         ForwardScratch::Impl& s, ThreadPool& pool) const {
  const int64_t d = config_.d_model, vocab = config_.n_vocab;
  std::vector<int> wanted;  // rows of the batch
  int end_row = 0;
  for (const BatchItem& item : items) {
    const int first = end_row;
    end_row += static_cast<int>(item.tokens.size());
    const bool all = options.logits == LogitsWanted::kAll;
    for (int t = all ? first : end_row - 1; t < end_row; ++t) wanted.push_back(t);
  }
  const auto n_wanted = static_cast<int>(wanted.size());
  for (int begin = 0; begin < n_wanted; begin += kLogitRows) {
    const int count = std::min(kLogitRows, n_wanted - begin);
    s.logits.Resize(static_cast<std::size_t>(count) * vocab);
    for (int i = 0; i < count; ++i) {
      RmsNorm(s.x.data() + wanted[begin + i] * d, weights_.output_norm.data(), config_.rms_eps, d,
              s.h.data() + i * d);
    }
    const MatMulJob job[] = {{.w = &weights_.output, .y = s.logits.data(), .ldy = vocab}};
    MatMul(job, s.h.data(), 0, count, s.matmul, pool);
    auto deliver = [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        options.on_logits(wanted[begin + i],
                          {s.logits.data() + i * vocab, static_cast<std::size_t>(vocab)});
      }
    };
    if (options.concurrent_logits) {
      pool.ParallelFor(count, 1, deliver);
    } else {
      deliver(0, count);
    }
  }
}

}  // namespace phasor
