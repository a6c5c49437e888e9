#include "attention/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <span>

#include "attention/attention_internal.h"
#include "base/check.h"
#include "ops/vector_ops.h"

namespace phasor {
namespace {

// Up to this many new tokens are scored on the codes one by one; beyond, decoding a page once for
// the whole block of queries is cheaper.
constexpr int kMaxDecodeQueries = 4;
// Pages that go through scores, softmax and values together, so that the steps of one overlap with
// those of the others.
constexpr int kBatchPages = 4;
// Pages per work item when one head's context is split over threads.
constexpr int kMinSegmentsPerSplit = 2 * kBatchPages;

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
  PagePrefetch(std::span<const KvSegment> next, int n_steps) : next_(next) {
    int n_lines = 0;
    for (const KvSegment& s : next) {
      n_lines += Lines(s.key_codec->PageBytes()) + Lines(s.value_codec->PageBytes());
    }
    per_step_ = (n_lines + n_steps - 1) / n_steps;
  }
  void Step() {
    for (int n = per_step_; n > 0; --n, --left_, at_ += 64) {
      if (left_ == 0 && !NextPage()) return;
      __builtin_prefetch(at_, 0, 2);
    }
  }

 private:
  static int Lines(std::size_t n_bytes) { return static_cast<int>((n_bytes + 63) / 64); }

  bool NextPage() {
    if (n_begun_ == 2 * next_.size()) return false;
    const KvSegment& s = next_[n_begun_ / 2];
    const bool key = n_begun_ % 2 == 0;
    at_ = key ? s.key_page : s.value_page;
    left_ = Lines((key ? s.key_codec : s.value_codec)->PageBytes());
    ++n_begun_;
    return true;
  }

  std::span<const KvSegment> next_;
  std::size_t n_begun_ = 0;
  const std::byte* at_ = nullptr;
  int left_ = 0, per_step_ = 0;
};

// The part of a segment that a query sees.
struct Visible {
  int first, end;
};

// Up to kBatchPages segments in one encoding. scores: [kBatchPages, g, kPageTokens]. next: the
// segments after these, to be fetched meanwhile.
void AttendSegments(std::span<const KvSegment> segments, const Visible* visible,
                    std::span<const KvSegment> next, const std::byte* prepared, int g, int D,
                    float* scores, const Partial& p) {
  const int n = static_cast<int>(segments.size());
  PagePrefetch prefetch(next, n * (g + 2));
  auto row = [&](int page, int head) {
    return scores + (static_cast<int64_t>(page) * g + head) * kPageTokens;
  };
  for (int k = 0; k < n; ++k) {
    prefetch.Step();
    const KvSegment& s = segments[k];
    s.key_codec->ScorePage(prepared, g, s.key_page, visible[k].end, row(k, 0));
  }
  for (int i = 0; i < g; ++i) {
    float max = p.max[i];
    for (int k = 0; k < n; ++k) {
      max = MaxOf(row(k, i) + visible[k].first, visible[k].end - visible[k].first, max);
    }
    if (max != p.max[i]) {
      const float factor = std::exp(p.max[i] - max);
      Scale(factor, D, p.out + static_cast<int64_t>(i) * D);
      p.sum[i] *= factor;
      p.max[i] = max;
    }
    for (int k = 0; k < n; ++k) {
      prefetch.Step();
      std::fill_n(row(k, i), visible[k].first, 0.0f);
      p.sum[i] += ExpSum(row(k, i) + visible[k].first, visible[k].end - visible[k].first, max);
    }
  }
  for (int k = 0; k < n; ++k) {
    prefetch.Step();
    const KvSegment& s = segments[k];
    s.value_codec->AccumulatePage(row(k, 0), g, s.value_page, visible[k].end, p.out);
  }
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
void RunSplit(const DecodeJob& job, int head, int begin, int end, float* scores, const Partial& p) {
  const int g = job.shape.n_heads / job.shape.n_kv_heads, D = job.shape.head_dim;
  const KvHeadCodecs& c = job.cache.codecs(job.layer, head);
  std::fill(p.max, p.max + g, -INFINITY);
  std::fill(p.sum, p.sum + g, 0.0f);
  std::fill(p.out, p.out + static_cast<int64_t>(g) * D, 0.0f);
  const int64_t oldest = job.shape.sliding_window > 0
                             ? std::max<int64_t>(0, job.visible - job.shape.sliding_window)
                             : 0;
  const std::vector<KvSegment>& all = job.s.segments[head];
  for (int i = begin; i < end;) {
    // Segments in the same encoding, as far as the query sees any of them.
    Visible visible[kBatchPages];
    int n = 0;
    for (; n < kBatchPages && i + n < end; ++n) {
      const KvSegment& s = all[i + n];
      if (s.key_codec != all[i].key_codec) break;
      const int last = static_cast<int>(std::min<int64_t>(s.n_tokens, job.visible - s.first_token));
      const int first = static_cast<int>(std::max<int64_t>(0, oldest - s.first_token));
      if (first >= last) break;
      visible[n] = {first, last};
    }
    if (n == 0) {
      ++i;
      continue;
    }
    const int n_next = std::min(kBatchPages, end - i - n);
    const std::span<const KvSegment> rest(all.data() + i, static_cast<std::size_t>(n + n_next));
    const bool is_row = all[i].key_codec == c.key_rows.get();
    const PreparedQueries& q = job.s.prepared[head];
    AttendSegments(rest.first(n), visible, rest.subspan(n), (is_row ? q.rows : q.pages).data(), g,
                   D, scores, p);
    i += n;
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
  int n_splits = std::max(1, job.pool.size() * 8 / n_kv);
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
    scores.Resize(static_cast<std::size_t>(kBatchPages) * g * kPageTokens);
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
