#include "attention/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "attention/attention_internal.h"
#include "base/check.h"
#include "ops/vector_ops.h"

namespace phasor {
namespace {

// Up to this many new tokens are scored on the codes one by one; beyond, decoding a page once for
// the whole block of queries is cheaper.
constexpr int kMaxDecodeQueries = 4;
// Pages per work item when one head's context is split over threads.
constexpr int kMinSegmentsPerSplit = 4;

// Running softmax of g rows over part of the context: out = sum_t exp(s_t - max) v_t.
struct Partial {
  float* max;  // [g]
  float* sum;  // [g]
  float* out;  // [g, D]
};

// Rotated and prepared queries of one KV head for the two key codecs in use.
struct PreparedQueries {
  AlignedBuffer<std::byte> pages, rows;
};

// Asks for the lines of the pages that come next, a few at a time between the steps of the present
// ones: hardware prefetch alone starts too late at the beginning of every page, and more requests
// at once than the core can keep open hold up everything behind them.
class PagePrefetch {
 public:
  PagePrefetch(const KvSegment* next, int n_steps) {
    if (next == nullptr) return;
    at_[0] = next->key_page;
    at_[1] = next->value_page;
    left_[0] = static_cast<int>((next->key_codec->PageBytes() + 63) / 64);
    left_[1] = static_cast<int>((next->value_codec->PageBytes() + 63) / 64);
    per_step_ = (left_[0] + left_[1] + n_steps - 1) / n_steps;
  }
  void Step() {
    int n = per_step_;
    for (int i = 0; i < 2; ++i) {
      for (; n > 0 && left_[i] > 0; --n, --left_[i], at_[i] += 64) {
        __builtin_prefetch(at_[i], 0, 2);
      }
    }
  }

 private:
  const std::byte* at_[2] = {};
  int left_[2] = {};
  int per_step_ = 0;
};

// next: the segment after this one, or null.
void AttendSegment(const KvSegment& s, const KvSegment* next, const PreparedQueries& q, bool is_row,
                   int g, int D, int first_visible, int n_visible, float* scores_GT,
                   const Partial& p) {
  PagePrefetch prefetch(next, g + 2);
  prefetch.Step();
  const std::byte* prepared = is_row ? q.rows.data() : q.pages.data();
  s.key_codec->ScorePage(prepared, g, s.key_page, n_visible, scores_GT);
  for (int i = 0; i < g; ++i) {
    prefetch.Step();
    float* row = scores_GT + i * kPageTokens;
    const float factor =
        OnlineSoftmax(row + first_visible, n_visible - first_visible, &p.max[i], &p.sum[i]);
    std::fill(row, row + first_visible, 0.0f);
    if (factor != 1.0f) Scale(factor, D, p.out + static_cast<int64_t>(i) * D);
  }
  prefetch.Step();
  s.value_codec->AccumulatePage(scores_GT, g, s.value_page, n_visible, p.out);
}

}  // namespace

struct AttentionScratch::Impl {
  // Decode: per KV head prepared queries and segments, per (head, split) partial results.
  std::vector<PreparedQueries> prepared;
  std::vector<std::vector<KvSegment>> segments;
  AlignedBuffer<float> partials;
  std::vector<AlignedBuffer<float>> scores;  // per thread
  PrefillScratch prefill;
  // Many queries on the codes: each thread works on queries of its own.
  struct Alone {
    std::unique_ptr<Impl> scratch = std::make_unique<Impl>();
    ThreadPool pool{1};
  };
  std::vector<std::unique_ptr<Alone>> alone;
};

AttentionScratch::AttentionScratch() : impl_(std::make_unique<Impl>()) {}
AttentionScratch::~AttentionScratch() = default;

namespace {

struct DecodeJob {
  const AttentionShape& shape;
  const KvCache& cache;
  int layer;
  int64_t visible;  // tokens this query may see, itself included
  float* q_HD;
  float* out_HD;
  AttentionScratch::Impl& s;
  ThreadPool& pool;
};

void PrepareHead(const DecodeJob& job, int head) {
  const int g = job.shape.n_heads / job.shape.n_kv_heads, D = job.shape.head_dim;
  float* q_GD = job.q_HD + static_cast<int64_t>(head) * g * D;
  const KvHeadCodecs& c = job.cache.codecs(job.layer, head);
  if (c.key->HasRotation()) c.key->Rotate(q_GD, g);
  Scale(job.shape.scale, static_cast<int64_t>(g) * D, q_GD);
  PreparedQueries& prepared = job.s.prepared[head];
  prepared.pages.Resize(c.key->PreparedQueryBytes(g));
  prepared.rows.Resize(c.key_rows->PreparedQueryBytes(g));
  c.key->PrepareQuery(q_GD, g, prepared.pages.data());
  c.key_rows->PrepareQuery(q_GD, g, prepared.rows.data());
}

// Runs segments [begin, end) of one head into a fresh partial result.
void RunSplit(const DecodeJob& job, int head, int begin, int end, float* scores_GT,
              const Partial& p) {
  const int g = job.shape.n_heads / job.shape.n_kv_heads, D = job.shape.head_dim;
  const KvHeadCodecs& c = job.cache.codecs(job.layer, head);
  std::fill(p.max, p.max + g, -INFINITY);
  std::fill(p.sum, p.sum + g, 0.0f);
  std::fill(p.out, p.out + static_cast<int64_t>(g) * D, 0.0f);
  const int64_t oldest = job.shape.sliding_window > 0
                             ? std::max<int64_t>(0, job.visible - job.shape.sliding_window)
                             : 0;
  for (int i = begin; i < end; ++i) {
    const KvSegment& s = job.s.segments[head][i];
    const KvSegment* next = i + 1 < end ? &job.s.segments[head][i + 1] : nullptr;
    const int n_visible =
        static_cast<int>(std::min<int64_t>(s.n_tokens, job.visible - s.first_token));
    const int first = static_cast<int>(std::max<int64_t>(0, oldest - s.first_token));
    if (first >= n_visible) continue;
    AttendSegment(s, next, job.s.prepared[head], s.key_codec == c.key_rows.get(), g, D, first,
                  n_visible, scores_GT, p);
  }
}

void MergeHead(const DecodeJob& job, int head, int n_splits, const std::vector<Partial>& partials) {
  const int g = job.shape.n_heads / job.shape.n_kv_heads, D = job.shape.head_dim;
  float* out_GD = job.out_HD + static_cast<int64_t>(head) * g * D;
  for (int i = 0; i < g; ++i) {
    float max = -INFINITY, sum = 0;
    for (int k = 0; k < n_splits; ++k) max = std::max(max, partials[k].max[i]);
    float* out = out_GD + static_cast<int64_t>(i) * D;
    std::fill(out, out + D, 0.0f);
    for (int k = 0; k < n_splits; ++k) {
      if (partials[k].max[i] == -INFINITY) continue;
      const float w = std::exp(partials[k].max[i] - max);
      sum += w * partials[k].sum[i];
      Axpy(w, partials[k].out + static_cast<int64_t>(i) * D, D, out);
    }
    Scale(1.0f / sum, D, out);
  }
  const KvHeadCodecs& c = job.cache.codecs(job.layer, head);
  if (c.value->HasRotation()) c.value->Unrotate(out_GD, g);
}

// One query token: heads and splits of the context form one list of work items.
void AttendOne(const DecodeJob& job, int n_uncommitted) {
  AttentionScratch::Impl& s = job.s;
  const int n_kv = job.shape.n_kv_heads, D = job.shape.head_dim;
  const int g = job.shape.n_heads / n_kv;
  s.prepared.resize(n_kv);
  s.segments.resize(n_kv);
  s.scores.resize(job.pool.size());
  for (int h = 0; h < n_kv; ++h) {
    job.cache.Segments(job.layer, h, n_uncommitted, &s.segments[h]);
    std::erase_if(s.segments[h],
                  [&](const KvSegment& seg) { return seg.first_token >= job.visible; });
  }
  const int n_segments = static_cast<int>(s.segments[0].size());
  // Enough items that threads finish together, none so small that merging costs more than scoring.
  int n_splits = std::max(1, job.pool.size() * 4 / n_kv);
  n_splits = std::min(n_splits, std::max(1, n_segments / kMinSegmentsPerSplit));
  const std::size_t per_item = static_cast<std::size_t>(g) * (D + 2);
  s.partials.Resize(per_item * n_kv * n_splits);
  auto partial = [&](int head, int split) {
    float* base =
        s.partials.data() + per_item * (static_cast<std::size_t>(head) * n_splits + split);
    return Partial{base, base + g, base + 2 * g};
  };
  const int n_items = n_kv * n_splits;
  std::atomic<int> next_head{0}, next_item{0}, prepared{0};
  job.pool.RunSharing([&](int thread) {
    AlignedBuffer<float>& scores = s.scores[thread];
    scores.Resize(static_cast<std::size_t>(g) * kPageTokens);
    for (int h; (h = next_head.fetch_add(1)) < n_kv;) {
      PrepareHead(job, h);
      prepared.fetch_add(1, std::memory_order_release);
    }
    while (prepared.load(std::memory_order_acquire) < n_kv) {
    }
    for (int i; (i = next_item.fetch_add(1)) < n_items;) {
      const int head = i / n_splits, split = i % n_splits;
      const int begin = static_cast<int>(static_cast<int64_t>(n_segments) * split / n_splits);
      const int end = static_cast<int>(static_cast<int64_t>(n_segments) * (split + 1) / n_splits);
      RunSplit(job, head, begin, end, scores.data(), partial(head, split));
    }
  });
  std::vector<Partial> parts(n_splits);
  for (int h = 0; h < n_kv; ++h) {
    for (int k = 0; k < n_splits; ++k) parts[k] = partial(h, k);
    MergeHead(job, h, n_splits, parts);
  }
}

// Decode for a whole block of queries. Each thread takes queries, not heads: a region per query
// would spend its time starting.
void AttendOnCodes(const AttentionShape& shape, const KvCache& cache, int layer, int n_new,
                   float* q_THD, float* out_THD, AttentionScratch::Impl& s, ThreadPool& pool) {
  const int64_t row = static_cast<int64_t>(shape.n_heads) * shape.head_dim;
  while (static_cast<int>(s.alone.size()) < pool.size()) {
    s.alone.push_back(std::make_unique<AttentionScratch::Impl::Alone>());
  }
  std::atomic<int> next{0};
  pool.RunSharing([&](int thread) {
    AttentionScratch::Impl::Alone& alone = *s.alone[thread];
    for (int t; (t = next.fetch_add(1)) < n_new;) {
      AttendOne({shape, cache, layer, cache.n_tokens() + t + 1, q_THD + t * row, out_THD + t * row,
                 *alone.scratch, alone.pool},
                n_new);
    }
  });
}

}  // namespace

void Attend(const AttentionShape& shape, const KvCache& cache, int layer, int n_new, float* q_THD,
            float* out_THD, AttentionScratch& scratch, ThreadPool& pool) {
  PHASOR_CHECK(n_new >= 1 && shape.n_heads % shape.n_kv_heads == 0);
  const int64_t row = static_cast<int64_t>(shape.n_heads) * shape.head_dim;
  if (n_new <= kMaxDecodeQueries) {
    for (int t = 0; t < n_new; ++t) {
      AttendOne({shape, cache, layer, cache.n_tokens() + t + 1, q_THD + t * row, out_THD + t * row,
                 scratch.impl(), pool},
                n_new);
    }
    return;
  }
  if (shape.score_codes) {
    AttendOnCodes(shape, cache, layer, n_new, q_THD, out_THD, scratch.impl(), pool);
    return;
  }
  AttendPrefill(shape, cache, layer, n_new, q_THD, out_THD, scratch.impl().prefill, pool);
}

}  // namespace phasor
