#include "attention/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
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
// As many bytes of them at most: these and the next ones share the second-level cache.
constexpr std::size_t kBatchBytes = std::size_t{128} << 10;
// Pages per work item when one head's context is split over threads.
constexpr int kMinSegmentsPerSplit = 2 * kBatchPages;

// Work items of a layer: what a thread waits for at the end is up to one of them.
constexpr int kItemsPerThread = 32;

// Running softmax of g rows over part of the context: out = sum_t exp(s_t - max) v_t.
struct Partial {
  float* max;  // [g]
  float* sum;  // [g]
  float* out;  // [g, D]
};

// Queries of one KV head, turned for one view of the keys and prepared for the two key codecs in
// use.
struct PreparedQueries {
  AlignedBuffer<float> q_GD;
  AlignedBuffer<std::byte> pages, rows;
};

// Which of the two encodings the visible keys of a view are in.
struct ViewUse {
  bool pages = false, rows = false;
};

// The part of a segment that a query sees.
struct Visible {
  int first, end;
};

// What is fetched while a batch goes through its steps: the pages of the next one, which nearly
// always lie side by side, cut into pieces by how long the steps take.
class FetchShares {
 public:
  // n: pages of the batch at hand.
  FetchShares(std::span<const KvSegment> next, int n) : next_(next), n_(n) {
    if (next.empty()) return;
    const std::size_t key_lines = Lines(next[0].key_codec->PageBytes());
    const std::size_t value_lines = Lines(next[0].value_codec->PageBytes());
    const std::byte* at = next[0].key_page;
    for (const KvSegment& s : next) {
      if (s.key_codec != next[0].key_codec || s.key_page != at) return;
      if (s.value_page != at + 64 * key_lines) return;
      at += 64 * (key_lines + value_lines);
    }
    lines_ = static_cast<uint32_t>((key_lines + value_lines) * next.size());
    const auto pages = static_cast<uint32_t>(n);
    per_key_ = (lines_ * kKeyShare / 256 + pages - 1) / pages;
    per_value_ = (lines_ * kValueShare / 256 + pages - 1) / pages;
  }

  Upcoming ForKeys(int page) const {
    if (lines_ > 0) return Piece(per_key_ * static_cast<uint32_t>(page), per_key_);
    if (page >= std::ssize(next_)) return {};
    return {next_[page].key_page, next_[page].key_codec->PageBytes()};
  }
  Upcoming ForSoftmax() const {
    const uint32_t first = per_key_ * static_cast<uint32_t>(n_), end = FirstOfValues();
    return first < end ? Piece(first, end - first) : Upcoming{};
  }
  Upcoming ForValues(int page) const {
    if (lines_ > 0) {
      return Piece(FirstOfValues() + per_value_ * static_cast<uint32_t>(page), per_value_);
    }
    if (page >= std::ssize(next_)) return {};
    return {next_[page].value_page, next_[page].value_codec->PageBytes()};
  }

 private:
  // Of 256; softmax has the rest. As measured (docs/kernels.md).
  static constexpr uint32_t kKeyShare = 116, kValueShare = 108;

  static std::size_t Lines(std::size_t n_bytes) { return (n_bytes + 63) / 64; }
  uint32_t FirstOfValues() const {
    const uint32_t values = per_value_ * static_cast<uint32_t>(n_);
    return values < lines_ ? lines_ - values : 0;
  }
  Upcoming Piece(uint32_t first, uint32_t n) const {
    if (first >= lines_) return {};
    return {next_[0].key_page + std::size_t{64} * first,
            std::size_t{64} * std::min(n, lines_ - first)};
  }

  std::span<const KvSegment> next_;
  int n_;
  uint32_t lines_ = 0;  // of all pages; 0: they do not lie side by side
  uint32_t per_key_ = 0, per_value_ = 0;
};

// Up to kBatchPages segments in one encoding. scores: [kBatchPages, g, kPageTokens]. next: the
// segments after these, fetched meanwhile.
void AttendSegments(std::span<const KvSegment> segments, const Visible* visible,
                    std::span<const KvSegment> next, const std::byte* prepared, int g, int D,
                    float* scores, const Partial& p) {
  const int n = static_cast<int>(segments.size());
  auto row = [&](int page, int head) {
    return scores + (static_cast<int64_t>(page) * g + head) * kPageTokens;
  };
  const FetchShares shares(next, n);
  PageToScore keys[kBatchPages];
  for (int k = 0; k < n; ++k) {
    keys[k] = {segments[k].key_page, visible[k].end, row(k, 0), shares.ForKeys(k)};
  }
  segments[0].key_codec->ScorePages(prepared, g, {keys, segments.size()});
  LineFetcher fetcher(shares.ForSoftmax(), 2 * g);
  for (int i = 0; i < g; ++i) {
    fetcher.Step();
    FloatRow rows[kBatchPages];
    for (int k = 0; k < n; ++k) {
      rows[k] = {row(k, i) + visible[k].first, visible[k].end - visible[k].first};
      std::fill_n(row(k, i), visible[k].first, 0.0f);
    }
    const std::span<const FloatRow> all(rows, segments.size());
    const float max = MaxOf(all, p.max[i]);
    if (max != p.max[i]) {
      const float factor = std::exp(p.max[i] - max);
      Scale(factor, D, p.out + static_cast<int64_t>(i) * D);
      p.sum[i] *= factor;
      p.max[i] = max;
    }
    fetcher.Step();
    p.sum[i] += ExpSum(all, max);
  }
  PageToAccumulate values[kBatchPages];
  for (int k = 0; k < n; ++k) {
    values[k] = {row(k, 0), segments[k].value_page, visible[k].end, shares.ForValues(k)};
  }
  segments[0].value_codec->AccumulatePages(g, {values, segments.size()}, p.out);
}

}  // namespace

struct AttentionScratch::Impl {
  // Decode: prepared queries per (KV head, view), segments per KV head, partial results per (head,
  // split, group).
  std::vector<PreparedQueries> prepared;
  std::vector<ViewUse> view_use;
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
  int query;        // which of the new tokens
  int64_t visible;  // tokens this query may see, itself included
  float* q_HD;
  float* out_HD;
  AttentionScratch::Impl& s;
  ThreadPool& pool;
};

PreparedQueries& Prepared(const DecodeJob& job, int head, int view) {
  return job.s.prepared[static_cast<std::size_t>(head) * job.cache.n_turns() + view];
}

int GroupCount(const KvCache& cache) { return cache.has_groups() ? 2 : 1; }

void PrepareHead(const DecodeJob& job, int head) {
  const int g = job.shape.n_heads / job.shape.n_kv_heads, D = job.shape.head_dim;
  const int64_t size = static_cast<int64_t>(g) * D;
  const KvHeadCodecs& c = job.cache.codecs(job.layer, head);
  for (int view = 0; view < job.cache.n_turns(); ++view) {
    const ViewUse use = job.s.view_use[view];
    if (!use.pages && !use.rows) continue;
    PreparedQueries& prepared = Prepared(job, head, view);
    prepared.q_GD.Resize(size);
    float* q_GD = prepared.q_GD.data();
    std::copy_n(job.q_HD + head * size, size, q_GD);
    const KvTurn& turn = job.cache.turn(view);
    TurnQueries(job.cache, turn, job.query, q_GD, g);
    if (c.key->HasRotation()) c.key->Rotate(q_GD, g);
    Scale(job.shape.scale * turn.scale, size, q_GD);
    if (use.pages) {
      prepared.pages.Resize(c.key->PreparedQueryBytes(g));
      c.key->PrepareQuery(q_GD, g, prepared.pages.data());
    }
    if (use.rows) {
      prepared.rows.Resize(c.key_rows->PreparedQueryBytes(g));
      c.key_rows->PrepareQuery(q_GD, g, prepared.rows.data());
    }
  }
}

// Segments [begin, end) of one head.
struct Split {
  int item = 0, head = 0, begin = 0, end = 0;
};

// The splits of all heads. Every thread has a run of them, which it takes from the front, so that
// it knows what comes next; who has none left takes from the back of another's.
class SplitList {
 public:
  SplitList(int n_heads, int n_splits, int n_segments, int n_threads)
      : n_splits_(n_splits), n_segments_(n_segments), runs_(n_threads) {
    const int64_t n_items = int64_t{n_heads} * n_splits;
    for (int64_t t = 0; t < n_threads; ++t) {
      runs_[t].left.store(Pack(n_items * t / n_threads, n_items * (t + 1) / n_threads));
    }
  }
  std::optional<Split> Take(int thread) {
    for (int i = 0; i < n_threads(); ++i) {
      std::atomic<uint64_t>& run = runs_[(thread + i) % n_threads()].left;
      uint64_t left = run.load();
      while (First(left) < End(left)) {
        const int item = i == 0 ? First(left) : End(left) - 1;
        const uint64_t less = i == 0 ? Pack(item + 1, End(left)) : Pack(First(left), item);
        if (run.compare_exchange_weak(left, less)) return At(item);
      }
    }
    return std::nullopt;
  }
  // The one that Take will most likely give the thread.
  Split Peek(int thread) const {
    for (int i = 0; i < n_threads(); ++i) {
      const uint64_t left = runs_[(thread + i) % n_threads()].left.load(std::memory_order_relaxed);
      if (First(left) < End(left)) return At(i == 0 ? First(left) : End(left) - 1);
    }
    return {};
  }

 private:
  // Items [first, end) that nobody has taken yet, on a cache line of their own.
  struct alignas(64) Run {
    std::atomic<uint64_t> left;
  };
  static uint64_t Pack(int64_t first, int64_t end) {
    return static_cast<uint64_t>(first) << 32 | static_cast<uint64_t>(end);
  }
  static int First(uint64_t left) { return static_cast<int>(left >> 32); }
  static int End(uint64_t left) { return static_cast<int>(left & 0xffffffff); }

  int n_threads() const { return static_cast<int>(runs_.size()); }
  Split At(int item) const {
    const int split = item % n_splits_;
    return Split{item, item / n_splits_, Edge(split), Edge(split + 1)};
  }
  int Edge(int split) const {
    return static_cast<int>(static_cast<int64_t>(n_segments_) * split / n_splits_);
  }
  const int n_splits_, n_segments_;
  std::vector<Run> runs_;
};

int BatchPages(const KvSegment& s) {
  const std::size_t page_bytes = s.key_codec->PageBytes() + s.value_codec->PageBytes();
  return std::clamp(static_cast<int>(kBatchBytes / page_bytes), 1, kBatchPages);
}

// Runs a split into fresh partial results, one a group.
void RunSplit(const DecodeJob& job, const Split& split, const SplitList& list, int thread,
              float* scores, const Partial* partials) {
  const auto [item, head, begin, end] = split;
  const int g = job.shape.n_heads / job.shape.n_kv_heads, D = job.shape.head_dim;
  const KvHeadCodecs& c = job.cache.codecs(job.layer, head);
  for (int group = 0; group < GroupCount(job.cache); ++group) {
    const Partial& p = partials[group];
    std::fill(p.max, p.max + g, -INFINITY);
    std::fill(p.sum, p.sum + g, 0.0f);
    std::fill(p.out, p.out + static_cast<int64_t>(g) * D, 0.0f);
  }
  const int64_t oldest = job.shape.sliding_window > 0
                             ? std::max<int64_t>(0, job.visible - job.shape.sliding_window)
                             : 0;
  const std::vector<KvSegment>& all = job.s.segments[head];
  for (int i = begin; i < end;) {
    // Segments in the same encoding and view, as far as the query sees any of them.
    Visible visible[kBatchPages];
    const int most = BatchPages(all[i]);
    int n = 0;
    for (; n < most && i + n < end; ++n) {
      const KvSegment& s = all[i + n];
      if (s.key_codec != all[i].key_codec || s.view != all[i].view) break;
      const int last = static_cast<int>(std::min<int64_t>(s.n_tokens, job.visible - s.first_token));
      const int first = static_cast<int>(std::max<int64_t>(0, oldest - s.first_token));
      if (first >= last) break;
      visible[n] = {s.first_row + first, s.first_row + last};
    }
    if (n == 0) {
      ++i;
      continue;
    }
    const Split after = i + n < end ? Split{item, head, i + n, end} : list.Peek(thread);
    const std::span<const KvSegment> next(job.s.segments[after.head].data() + after.begin,
                                          std::min(most, after.end - after.begin));
    const bool is_row = all[i].key_codec == c.key_rows.get();
    const PreparedQueries& q = Prepared(job, head, all[i].view);
    AttendSegments({all.data() + i, static_cast<std::size_t>(n)}, visible, next,
                   (is_row ? q.rows : q.pages).data(), g, D, scores,
                   partials[job.cache.turn(all[i].view).view.group]);
    i += n;
  }
}

// Joins the partial results of one query head and one group: out [D] = the sum over splits, its
// terms taken against the largest score; returns that and the sum of the terms.
struct Merged {
  float max = -INFINITY, sum = 0;
};
Merged MergeSplits(int i, int D, std::span<const Partial> splits, float* out) {
  Merged m;
  for (const Partial& p : splits) m.max = std::max(m.max, p.max[i]);
  std::fill(out, out + D, 0.0f);
  for (const Partial& p : splits) {
    if (p.max[i] == -INFINITY) continue;
    const float w = std::exp(p.max[i] - m.max);
    m.sum += w * p.sum[i];
    Axpy(w, p.out + static_cast<int64_t>(i) * D, D, out);
  }
  return m;
}

// partials: [n_groups][n_splits].
void MergeHead(const DecodeJob& job, int head, int n_splits, std::span<const Partial> partials) {
  const int g = job.shape.n_heads / job.shape.n_kv_heads, D = job.shape.head_dim;
  float* out_GD = job.out_HD + static_cast<int64_t>(head) * g * D;
  const auto n = static_cast<std::size_t>(n_splits);
  std::vector<float> other(GroupCount(job.cache) > 1 ? D : 0);
  for (int i = 0; i < g; ++i) {
    float* out = out_GD + static_cast<int64_t>(i) * D;
    const Merged plain = MergeSplits(i, D, partials.first(n), out);
    if (other.empty()) {
      Scale(1.0f / plain.sum, D, out);
      continue;
    }
    const Merged apart = MergeSplits(i, D, partials.subspan(n), other.data());
    const GroupWeights w =
        WeighGroups(job.cache.group_scale(), {plain.max, plain.sum}, {apart.max, apart.sum});
    Scale(w.plain, D, out);
    Axpy(w.apart, other.data(), D, out);
  }
  const KvHeadCodecs& c = job.cache.codecs(job.layer, head);
  if (c.value->HasRotation()) c.value->Unrotate(out_GD, g);
}

// Segments of one head up to the query.
void FindSegments(const DecodeJob& job, int head, int n_uncommitted) {
  std::vector<KvSegment>& segments = job.s.segments[head];
  job.cache.Segments(job.layer, head, n_uncommitted, &segments);
  std::erase_if(segments, [&](const KvSegment& s) { return s.first_token >= job.visible; });
}

// The first head's segments, and what has to be prepared: all heads have the same ledger.
void FindViewUse(const DecodeJob& job, int n_uncommitted) {
  AttentionScratch::Impl& s = job.s;
  const int n_kv = job.shape.n_kv_heads;
  s.prepared.resize(static_cast<std::size_t>(n_kv) * job.cache.n_turns());
  s.view_use.assign(job.cache.n_turns(), {});
  s.segments.resize(n_kv);
  FindSegments(job, 0, n_uncommitted);
  const KvCodec* rows = job.cache.codecs(job.layer, 0).key_rows.get();
  for (const KvSegment& seg : s.segments[0]) {
    ViewUse& use = s.view_use[seg.view];
    (seg.key_codec == rows ? use.rows : use.pages) = true;
  }
}

// One query token: heads and splits of the context form one list of work items.
void AttendOne(const DecodeJob& job, int n_uncommitted) {
  AttentionScratch::Impl& s = job.s;
  const int n_kv = job.shape.n_kv_heads, D = job.shape.head_dim;
  const int g = job.shape.n_heads / n_kv;
  s.scores.resize(job.pool.size());
  FindViewUse(job, n_uncommitted);
  const int n_segments = static_cast<int>(s.segments[0].size());
  // Enough items that threads finish together, none so small that merging costs more than scoring.
  int n_splits = std::max(1, job.pool.size() * kItemsPerThread / n_kv);
  n_splits = std::min(n_splits, std::max(1, n_segments / kMinSegmentsPerSplit));
  // Items of different threads share no cache line, nor two that are fetched together.
  const std::size_t per_item = (static_cast<std::size_t>(g) * (D + 2) + 31) / 32 * 32;
  const int n_groups = GroupCount(job.cache);
  s.partials.Resize(per_item * n_kv * n_splits * n_groups);
  auto partial = [&](int head, int split, int group) {
    const int item = (head * n_splits + split) * n_groups + group;
    float* out = s.partials.data() + per_item * static_cast<std::size_t>(item);
    float* max = out + static_cast<std::ptrdiff_t>(g) * D;
    return Partial{max, max + g, out};
  };
  SplitList splits(n_kv, n_splits, n_segments, job.pool.size());
  std::atomic<int> next_head{0}, prepared{0};
  std::vector<std::atomic<int>> n_done(n_kv);
  auto merge = [&](int head) {
    std::vector<Partial> parts;
    for (int i = 0; i < n_splits * n_groups; ++i) {
      parts.push_back(partial(head, i % n_splits, i / n_splits));
    }
    MergeHead(job, head, n_splits, parts);
  };
  job.pool.RunSharing([&](int thread) {
    AlignedBuffer<float>& scores = s.scores[thread];
    scores.Resize(static_cast<std::size_t>(kBatchPages) * g * kPageTokens);
    for (int h; (h = next_head.fetch_add(1)) < n_kv;) {
      if (h > 0) FindSegments(job, h, n_uncommitted);
      PrepareHead(job, h);
      prepared.fetch_add(1, std::memory_order_release);
    }
    while (prepared.load(std::memory_order_acquire) < n_kv) {
    }
    while (const std::optional<Split> split = splits.Take(thread)) {
      const int head = split->head, k = split->item % n_splits;
      const Partial parts[] = {partial(head, k, 0), partial(head, k, n_groups - 1)};
      RunSplit(job, *split, splits, thread, scores.data(), parts);
      // Whoever ends a head joins it: one thread for all would be slow where there are many.
      if (n_done[head].fetch_add(1, std::memory_order_acq_rel) + 1 == n_splits) merge(head);
    }
  });
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
      AttendOne({shape, cache, layer, t, cache.n_tokens() + t + 1, q_THD + t * row,
                 out_THD + t * row, *alone.scratch, alone.pool},
                n_new);
    }
  });
}

}  // namespace

void TurnQueries(const KvCache& cache, const KvTurn& turn, int64_t query, float* q_GD, int g) {
  if (turn.identity || cache.options().n_rot == 0) return;
  const KvCacheOptions& o = cache.options();
  const int P = o.n_rot / 2;
  ApplyRope(q_GD, g, o.head_dim, o.n_rot, o.pairing, turn.CosAt(query, P), turn.SinAt(query, P));
}

GroupWeights WeighGroups(const KvGroupScale& scale, const GroupSum& plain, const GroupSum& apart) {
  if (!(apart.sum > 0)) return {1.0f / plain.sum, 0.0f};
  if (!(plain.sum > 0)) return {0.0f, 1.0f / apart.sum};
  const float lse_plain = plain.max + std::log(plain.sum);
  const float lse_apart = scale.scale * scale.temperature * (apart.max + std::log(apart.sum));
  const float max = std::max(lse_plain, lse_apart);
  const float w_plain = std::exp(lse_plain - max), w_apart = std::exp(lse_apart - max);
  const float sum = w_plain + w_apart;
  return {w_plain / (sum * plain.sum), w_apart / (sum * apart.sum)};
}

void Attend(const AttentionShape& shape, const KvCache& cache, int layer, int n_new, float* q_THD,
            float* out_THD, AttentionScratch& scratch, ThreadPool& pool) {
  PHASOR_CHECK(n_new >= 1 && shape.n_heads % shape.n_kv_heads == 0);
  const int64_t row = static_cast<int64_t>(shape.n_heads) * shape.head_dim;
  if (n_new <= kMaxDecodeQueries) {
    for (int t = 0; t < n_new; ++t) {
      AttendOne({shape, cache, layer, t, cache.n_tokens() + t + 1, q_THD + t * row,
                 out_THD + t * row, scratch.impl(), pool},
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
