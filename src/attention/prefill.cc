// Prefill attention: each page is decoded to float once per block of queries, then two small
// matrix products and an online softmax per page (flash attention; Dao et al. 2022, 2205.14135).
// The products run on 16-bit integers where AttentionShape::precision and the processor allow it.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "attention/attention_internal.h"
#include "ops/matmul.h"
#include "ops/vector_ops.h"

namespace phasor {
namespace {

// Rows (query tokens times query heads) per block: one decoded page serves this many queries. Float
// products keep a score tile of 128 columns for all of them in L2. Integer ones keep 6 bytes per
// row and dimension (query and result), which may take part of L2.
constexpr int kFloatRows = 192;
constexpr int kInt16BlockBytes = 384 << 10;
// Blocks per thread that are enough for threads to finish together even when one is slowed down,
// and that are enough when their number is no multiple of the number of threads.
constexpr int kMinBlocksPerThread = 4;
constexpr int kManyBlocksPerThread = 16;

struct Block {
  int head;         // KV head
  int first_query;  // within the new tokens
  int n_queries;
};

void Transpose(const float* x_TD, int n_tokens, int D, float* x_DT) {
  constexpr int kTile = 16;
  for (int d0 = 0; d0 < D; d0 += kTile) {
    const int d1 = std::min(D, d0 + kTile);
    for (int t = 0; t < n_tokens; ++t) {
      for (int d = d0; d < d1; ++d) x_DT[d * kPageTokens + t] = x_TD[t * D + d];
    }
  }
}

bool UsesInt16(const AttentionShape& shape) {
  return shape.precision == MatMulPrecision::kInt8 && HasInt16Attention();
}

class BlockRunner {
 public:
  BlockRunner(const AttentionShape& shape, const KvCache& cache, int layer, int n_new, float* q_THD,
              float* out_THD)
      : shape_(shape),
        cache_(cache),
        layer_(layer),
        n_new_(n_new),
        q_(q_THD),
        out_(out_THD),
        int16_(UsesInt16(shape)) {}

  void Run(const Block& block, PrefillScratch::PerThread& s) const {
    const int D = shape_.head_dim, g = shape_.n_heads / shape_.n_kv_heads;
    const int rows = block.n_queries * g;
    Gather(block, s, rows);
    int view = -1;
    cache_.Segments(layer_, block.head, n_new_, &s.segments);
    const int64_t first_position = cache_.n_tokens() + block.first_query;
    const int64_t last_position = first_position + block.n_queries - 1;
    for (const KvSegment& segment : s.segments) {
      if (segment.first_token > last_position) break;
      if (shape_.sliding_window > 0 &&
          segment.first_token + segment.n_tokens <= first_position - shape_.sliding_window + 1) {
        continue;
      }
      if (segment.view != view) UseView(block, view = segment.view, rows, s);
      PrefillScratch::Running& running = s.running[cache_.turn(view).view.group];
      const int end_row = segment.first_row + segment.n_tokens;
      segment.key_codec->DecodePage(segment.key_page, end_row, s.k_TD.data());
      segment.value_codec->DecodePage(segment.value_page, end_row, s.v_TD.data());
      if (int16_) {
        PackInt16Page(s.k_TD.data(), s.v_TD.data(), end_row, D, &s.page);
        RunSegmentInt16(segment, first_position, rows, g, s.page, &running.block);
      } else {
        RunSegment(segment, first_position, rows, g, s, &running);
      }
    }
    Finish(block, s, rows, D, g);
  }

 private:
  // Copies the block's queries to [n_queries * g, D] and clears the running results.
  void Gather(const Block& block, PrefillScratch::PerThread& s, int rows) const {
    const int D = shape_.head_dim, g = shape_.n_heads / shape_.n_kv_heads;
    const std::size_t size = static_cast<std::size_t>(rows) * D;
    s.gathered.Resize(size);
    s.q.Resize(size);
    s.k_TD.Resize(static_cast<std::size_t>(kPageTokens) * D);
    s.v_TD.Resize(static_cast<std::size_t>(kPageTokens) * D);
    for (int t = 0; t < block.n_queries; ++t) {
      const float* q = q_ + (static_cast<int64_t>(block.first_query + t) * shape_.n_heads +
                             static_cast<int64_t>(block.head) * g) *
                                D;
      std::copy_n(q, static_cast<std::size_t>(g) * D,
                  s.gathered.data() + static_cast<std::size_t>(t) * g * D);
    }
    if (!int16_) {
      s.k_DT.Resize(static_cast<std::size_t>(kPageTokens) * D);
      s.scores.Resize(static_cast<std::size_t>(rows) * kPageTokens);
    }
    for (int group = 0; group < n_groups(); ++group) {
      PrefillScratch::Running& running = s.running[group];
      running.out.Resize(size);
      if (int16_) {
        StartInt16Block(rows, D, &running.block);
        continue;
      }
      running.max.Resize(rows);
      running.sum.Resize(rows);
      std::fill_n(running.out.data(), size, 0.0f);
      std::fill_n(running.max.data(), rows, -INFINITY);
      std::fill_n(running.sum.data(), rows, 0.0f);
    }
  }

  int n_groups() const { return cache_.has_groups() ? 2 : 1; }

  // Queries turned for the keys of one view, in the codec's basis, scaled.
  void UseView(const Block& block, int view, int rows, PrefillScratch::PerThread& s) const {
    const int D = shape_.head_dim, g = shape_.n_heads / shape_.n_kv_heads;
    const int64_t size = static_cast<int64_t>(rows) * D;
    const KvTurn& turn = cache_.turn(view);
    std::copy_n(s.gathered.data(), size, s.q.data());
    for (int t = 0; !turn.identity && t < block.n_queries; ++t) {
      TurnQueries(cache_, turn, block.first_query + t, s.q.data() + int64_t{t} * g * D, g);
    }
    const KvHeadCodecs& c = cache_.codecs(layer_, block.head);
    if (c.key->HasRotation()) c.key->Rotate(s.q.data(), rows);
    Scale(shape_.scale * turn.scale, size, s.q.data());
    if (int16_) SetInt16Queries(s.q.data(), &s.running[turn.view.group].block);
  }

  // Rows of the segment's page that a query at `position` (its index in the text) sees: [begin,
  // end), empty when begin >= end.
  struct Range {
    int begin, end;
  };
  Range Visible(const KvSegment& segment, int64_t position) const {
    const int64_t last = std::min<int64_t>(segment.n_tokens, position - segment.first_token + 1);
    int64_t first = 0;
    if (shape_.sliding_window > 0) {
      first = std::max<int64_t>(0, position - shape_.sliding_window + 1 - segment.first_token);
    }
    const int64_t row = segment.first_row;
    return {static_cast<int>(std::min<int64_t>(row + first, kPageTokens)),
            static_cast<int>(row + std::max<int64_t>(last, 0))};
  }

  void RunSegmentInt16(const KvSegment& segment, int64_t first_position, int rows, int g,
                       const Int16Page& page, Int16Block* block) const {
    const int64_t first_row = std::max<int64_t>(0, segment.first_token - first_position) * g;
    int begin[kInt16GroupRows], end[kInt16GroupRows];
    for (int row = static_cast<int>(first_row / kInt16TileRows * kInt16TileRows); row < rows;
         row += kInt16GroupRows) {
      const int n = std::min(kInt16GroupRows, rows - row);
      // Later rows see no fewer new tokens and no more old ones.
      const Range oldest = Visible(segment, first_position + row / g);
      const Range newest = Visible(segment, first_position + (row + n - 1) / g);
      const int first = oldest.begin / kInt16TokenStep * kInt16TokenStep;
      const int last = (newest.end + kInt16TokenStep - 1) / kInt16TokenStep * kInt16TokenStep;
      if (first >= last) continue;
      const bool all = newest.begin <= first && oldest.end >= last;
      for (int i = 0; !all && i < n; ++i) {
        const Range r = Visible(segment, first_position + (row + i) / g);
        begin[i] = r.begin;
        end[i] = r.end;
      }
      AttendInt16Rows(page, {row, n, first, last, all ? nullptr : begin, all ? nullptr : end},
                      block);
    }
  }

  void RunSegment(const KvSegment& segment, int64_t first_position, int rows, int g,
                  PrefillScratch::PerThread& s, PrefillScratch::Running* running) const {
    const int D = shape_.head_dim, n = segment.first_row + segment.n_tokens;
    Transpose(s.k_TD.data(), n, D, s.k_DT.data());
    // Rows of queries before this segment see none of it.
    const int first_row =
        static_cast<int>(std::max<int64_t>(0, segment.first_token - first_position)) * g;
    const int active = rows - first_row;
    float* scores = s.scores.data();
    GemmF32(s.q.data() + static_cast<int64_t>(first_row) * D, D, s.k_DT.data(), kPageTokens, scores,
            kPageTokens, active, n, D, false);
    for (int r = 0; r < active; ++r) {
      const int64_t position = first_position + (first_row + r) / g;
      SoftmaxRow(segment, position, scores + static_cast<int64_t>(r) * kPageTokens, first_row + r,
                 running);
    }
    GemmF32(scores, kPageTokens, s.v_TD.data(), D,
            running->out.data() + static_cast<int64_t>(first_row) * D, D, active, D, n, true);
  }

  void SoftmaxRow(const KvSegment& segment, int64_t position, float* row, int r,
                  PrefillScratch::Running* running) const {
    const int n = segment.first_row + segment.n_tokens, D = shape_.head_dim;
    const auto [begin, end] = Visible(segment, position);
    if (begin >= end) {
      std::fill(row, row + n, 0.0f);
      return;
    }
    std::fill(row, row + begin, 0.0f);
    std::fill(row + end, row + n, 0.0f);
    const float factor =
        OnlineSoftmax(row + begin, end - begin, &running->max[r], &running->sum[r]);
    if (factor != 1.0f) Scale(factor, D, running->out.data() + static_cast<int64_t>(r) * D);
  }

  // Sum and maximum of row r, in natural logarithms.
  GroupSum SumOf(const PrefillScratch::Running& running, int r) const {
    if (!int16_) return {running.max[r], running.sum[r]};
    constexpr float kLn2 = 0.6931471805599453f;
    return {running.block.max[r] * kLn2, running.block.sum[r]};
  }

  void Finish(const Block& block, PrefillScratch::PerThread& s, int rows, int D, int g) const {
    float* merged = s.running[0].out.data();
    for (int group = 0; group < n_groups(); ++group) {
      PrefillScratch::Running& running = s.running[group];
      if (int16_) FinishInt16Block(running.block, running.out.data());
      for (int r = 0; !int16_ && r < rows; ++r) {
        const float sum = running.sum[r];
        Scale(sum > 0 ? 1.0f / sum : 0.0f, D, running.out.data() + static_cast<int64_t>(r) * D);
      }
    }
    for (int r = 0; n_groups() > 1 && r < rows; ++r) {
      const GroupSum plain = SumOf(s.running[0], r), apart = SumOf(s.running[1], r);
      const GroupWeights w = WeighGroups(cache_.group_scale(), plain, apart);
      Scale(w.plain * plain.sum, D, merged + static_cast<int64_t>(r) * D);
      Axpy(w.apart * apart.sum, s.running[1].out.data() + static_cast<int64_t>(r) * D, D,
           merged + static_cast<int64_t>(r) * D);
    }
    const KvHeadCodecs& c = cache_.codecs(layer_, block.head);
    if (c.value->HasRotation()) c.value->Unrotate(merged, rows);
    for (int t = 0; t < block.n_queries; ++t) {
      float* out = out_ + (static_cast<int64_t>(block.first_query + t) * shape_.n_heads +
                           static_cast<int64_t>(block.head) * g) *
                              D;
      std::copy_n(merged + static_cast<std::size_t>(t) * g * D, static_cast<std::size_t>(g) * D,
                  out);
    }
  }

  const AttentionShape& shape_;
  const KvCache& cache_;
  int layer_, n_new_;
  const float* q_;
  float* out_;
  bool int16_;
};

// New tokens per block.
int QueriesPerBlock(const AttentionShape& shape, int n_new, int n_threads) {
  const int g = shape.n_heads / shape.n_kv_heads;
  if (!UsesInt16(shape)) return std::max(1, kFloatRows / g);
  const int max_rows = std::max(kInt16GroupRows, kInt16BlockBytes / (6 * shape.head_dim));
  const int max_queries = std::max(1, max_rows / g);
  int per_head = (n_new + max_queries - 1) / max_queries;
  auto unbalanced = [&](int n_blocks) {
    return n_blocks < kMinBlocksPerThread * n_threads ||
           (n_blocks % n_threads != 0 && n_blocks < kManyBlocksPerThread * n_threads);
  };
  // No block below one group of rows: smaller ones decode pages for too few queries.
  while (unbalanced(per_head * shape.n_kv_heads) && n_new * g / (per_head + 1) >= kInt16GroupRows) {
    ++per_head;
  }
  return (n_new + per_head - 1) / per_head;
}

}  // namespace

void AttendPrefill(const AttentionShape& shape, const KvCache& cache, int layer, int n_new,
                   float* q_THD, float* out_THD, PrefillScratch& scratch, ThreadPool& pool) {
  const int per_block = QueriesPerBlock(shape, n_new, pool.size());
  std::vector<Block> blocks;
  // Late queries see most: starting with them lets the threads finish together.
  for (int first = (n_new - 1) / per_block * per_block; first >= 0; first -= per_block) {
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      blocks.push_back({h, first, std::min(per_block, n_new - first)});
    }
  }
  scratch.threads.resize(pool.size());
  const BlockRunner runner(shape, cache, layer, n_new, q_THD, out_THD);
  std::atomic<std::size_t> next{0};
  pool.RunSharing([&](int thread) {
    for (std::size_t i; (i = next.fetch_add(1)) < blocks.size();) {
      runner.Run(blocks[i], scratch.threads[thread]);
    }
  });
}

}  // namespace phasor
