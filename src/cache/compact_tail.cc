#include "cache/compact_tail.h"

#include <algorithm>

#include "base/check.h"

namespace phasor {
namespace {

bool Alike(const KvPiece& a, const KvPiece& b) {
  return a.kind == KvBlockKind::kRows && !a.sink && !b.sink && a.view == b.view &&
         a.pinned == b.pinned && a.stale == b.stale;
}

// Copies the rows of `from`, one behind the other, to the front of a block, for one head.
void CopyRows(const std::vector<KvPiece>& from, int block, int layer, int head, KvStore* store) {
  const KvHeadCodecs& c = store->codecs(layer, head);
  const auto D = static_cast<std::size_t>(store->options().head_dim);
  std::vector<float> rows(kPageTokens * D);
  int done = 0;
  for (const KvPiece& piece : from) {
    for (const bool key : {true, false}) {
      const RowKvCodec& codec = key ? *c.key_rows : *c.value_rows;
      codec.DecodePage(key ? store->KeyPage(piece.kind, piece.block, layer, head)
                           : store->ValuePage(piece.kind, piece.block, layer, head),
                       piece.first_row + piece.n_rows, rows.data());
      codec.EncodeRows(rows.data() + static_cast<std::size_t>(piece.first_row) * D, done,
                       piece.n_rows,
                       key ? store->KeyPage(KvBlockKind::kRows, block, layer, head)
                           : store->ValuePage(KvBlockKind::kRows, block, layer, head));
    }
    done += piece.n_rows;
  }
}

}  // namespace

Status CompactTail(int max_pieces, KvCache* cache, ThreadPool& pool) {
  PHASOR_CHECK(max_pieces >= 1);
  const std::vector<KvPiece>& pieces = cache->pieces();
  std::size_t first = pieces.size();
  int n_rows = 0;
  while (first > 0 && Alike(pieces[first - 1], pieces.back()) &&
         n_rows + pieces[first - 1].n_rows <= kPageTokens) {
    n_rows += pieces[--first].n_rows;
  }
  if (pieces.size() - first <= static_cast<std::size_t>(max_pieces)) return Status::Ok();
  const std::vector<KvPiece> scattered(pieces.begin() + static_cast<std::ptrdiff_t>(first),
                                       pieces.end());
  KvStore& store = *cache->store();
  PHASOR_ASSIGN_OR_RETURN(const int block, store.Take(KvBlockKind::kRows));
  PositionTicks* to = store.positions(KvBlockKind::kRows, block);
  for (const KvPiece& piece : scattered) {
    to = std::copy_n(store.positions(piece.kind, piece.block) + piece.first_row, piece.n_rows, to);
  }
  store.SetFilled(KvBlockKind::kRows, block, n_rows);
  const int n_kv = store.options().n_kv_heads;
  pool.ParallelFor(store.n_heads(), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<int>(begin); i < end; ++i) {
      CopyRows(scattered, block, i / n_kv, i % n_kv, &store);
    }
  });
  KvPiece joined = scattered.front();
  joined.block = block;
  joined.first_row = 0;
  joined.n_rows = n_rows;
  const int64_t begin = cache->n_tokens() - n_rows;
  const PositionTicks next = cache->next_position(), at = cache->PositionOf(begin);
  {
    const KvSpan span(cache->store(), {joined}, at, next);
    store.Release(KvBlockKind::kRows, block);  // the span holds it now
    PHASOR_RETURN_IF_ERROR(cache->Truncate(begin, /*even_pinned=*/true));
    PHASOR_RETURN_IF_ERROR(cache->Attach(span, {.position = at,
                                                .same_left_context = true,
                                                .group = joined.view.group,
                                                .keep_pinned = true}));
  }
  cache->SetNextPosition(next);
  return Status::Ok();
}

}  // namespace phasor
