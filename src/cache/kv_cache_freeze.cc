// From 16-bit rows to pages of codes.
#include <algorithm>

#include "base/check.h"
#include "cache/kv_cache.h"

namespace phasor {
namespace {

// Loose rows between edits, which never grow into a whole page, become a page of their own from
// this many on: at 4.3 bits a page takes the room of 35 rows of 16 bits.
constexpr int kMinLooseRows = 48;

}  // namespace

struct KvCache::FreezeItem {
  std::vector<KvPiece> sources;
  int n_rows = 0;
  int block = 0;
};

struct KvCache::FreezePlan {
  std::vector<KvPiece> pieces;  // the ledger afterwards
  std::vector<FreezeItem> items;
};

// Walks over the ledger, gathers runs of rows that are seen alike and cuts pages from them.
class KvCache::FreezePlanner {
 public:
  FreezePlanner(int64_t end, KvStore* store) : end_(end), store_(store) {}

  FreezePlan Run(const std::vector<KvPiece>& pieces) {
    for (const KvPiece& piece : pieces) {
      if (piece.kind != KvBlockKind::kRows || piece.sink) {
        Flush(/*closed=*/true);
        AppendPiece(piece, &plan_.pieces);
      } else {
        if (!run_.empty() && !Alike(run_.back(), piece)) Flush(/*closed=*/true);
        if (run_.empty()) run_first_ = token_;
        run_.push_back(piece);
      }
      token_ += piece.n_rows;
    }
    Flush(/*closed=*/false);
    return std::move(plan_);
  }

 private:
  static bool Alike(const KvPiece& a, const KvPiece& b) {
    return a.view == b.view && a.pinned == b.pinned && a.stale == b.stale;
  }

  // closed: something else follows, so the run will not grow.
  void Flush(bool closed) {
    if (run_.empty()) return;
    const int64_t length = CountTokens(run_);
    const int64_t old = std::clamp<int64_t>(end_ - run_first_, 0, length);
    int64_t done = 0;
    while (old - done >= kPageTokens && Emit(done, kPageTokens)) done += kPageTokens;
    const int64_t rest = length - done;
    if (closed && old == length && rest >= kMinLooseRows && rest < kPageTokens &&
        Emit(done, static_cast<int>(rest))) {
      done += rest;
    }
    AppendPieces(SlicePieces(run_, done, length), &plan_.pieces);
    run_.clear();
  }

  bool Emit(int64_t first, int n) {
    Result<int> block = store_->Take(KvBlockKind::kCodes);
    if (!block.ok()) return false;
    KvPiece page = run_.front();
    page.kind = KvBlockKind::kCodes;
    page.block = *block;
    page.first_row = 0;
    page.n_rows = n;
    plan_.pieces.push_back(page);
    plan_.items.push_back({SlicePieces(run_, first, first + n), n, *block});
    return true;
  }

  int64_t end_;
  KvStore* store_;
  FreezePlan plan_;
  std::vector<KvPiece> run_;
  int64_t run_first_ = 0, token_ = 0;
};

void KvCache::EncodeItem(const FreezeItem& item, int layer, int head,
                         std::vector<float>* rows) const {
  const KvHeadCodecs& c = codecs(layer, head);
  const auto D = static_cast<std::size_t>(options_.head_dim);
  const std::size_t page_size = kPageTokens * D;
  rows->resize(2 * page_size);
  float* gathered = rows->data() + page_size;
  for (const bool key : {true, false}) {
    float* to = gathered;
    for (const KvPiece& piece : item.sources) {
      const std::byte* page = key ? store_->KeyPage(piece.kind, piece.block, layer, head)
                                  : store_->ValuePage(piece.kind, piece.block, layer, head);
      const RowKvCodec& codec = key ? *c.key_rows : *c.value_rows;
      const std::size_t size = static_cast<std::size_t>(piece.n_rows) * D;
      if (piece.first_row == 0) {
        codec.DecodePage(page, piece.n_rows, to);
      } else {
        codec.DecodePage(page, piece.first_row + piece.n_rows, rows->data());
        std::copy_n(rows->data() + static_cast<std::size_t>(piece.first_row) * D, size, to);
      }
      to += size;
    }
    if (key) {
      c.key->EncodePage(gathered, item.n_rows,
                        store_->KeyPage(KvBlockKind::kCodes, item.block, layer, head));
    } else {
      c.value->EncodePage(gathered, item.n_rows,
                          store_->ValuePage(KvBlockKind::kCodes, item.block, layer, head));
    }
  }
}

void KvCache::FreezeOlderThan(int64_t end, ThreadPool& pool) {
  PHASOR_CHECK(pending_.empty());
  if (end < std::min<int64_t>(kMinLooseRows, kPageTokens)) return;
  FreezePlan plan = FreezePlanner(end, store_.get()).Run(pieces_);
  if (plan.items.empty()) return;
  const auto n_items = static_cast<int64_t>(plan.items.size());
  for (const FreezeItem& item : plan.items) {
    PositionTicks* to = store_->positions(KvBlockKind::kCodes, item.block);
    for (const KvPiece& piece : item.sources) {
      const PositionTicks* from = store_->positions(piece.kind, piece.block);
      to = std::copy_n(from + piece.first_row, piece.n_rows, to);
    }
    store_->SetFilled(KvBlockKind::kCodes, item.block, item.n_rows);
  }
  const int n_kv = options_.n_kv_heads;
  pool.ParallelFor(store_->n_heads() * n_items, 1, [&](int64_t begin, int64_t last) {
    std::vector<float> rows;
    for (int64_t i = begin; i < last; ++i) {
      const int head = static_cast<int>(i / n_items);
      EncodeItem(plan.items[i % n_items], head / n_kv, head % n_kv, &rows);
    }
  });
  store_->Retain(plan.pieces);
  store_->Release(pieces_);
  // The planner's own references.
  for (const FreezeItem& item : plan.items) store_->Release(KvBlockKind::kCodes, item.block);
  pieces_ = std::move(plan.pieces);
}

}  // namespace phasor
