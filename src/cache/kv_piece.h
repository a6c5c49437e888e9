// Where cached tokens are, apart from what they hold: the entries of a cache's ledger.
//
// A block holds the keys and values of up to kPageTokens tokens, over all layers and KV heads, in
// one encoding; its contents never change once written (rows may be added behind the last one). A
// piece is a run of rows of one block as one sequence sees it. Moving text changes pieces only.
#pragma once

#include <cstdint>
#include <vector>

#include "contracts/kv_codec.h"
#include "contracts/position_method.h"

namespace phasor {

enum class KvBlockKind : uint8_t {
  kRows,   // 16-bit (or f32) rows: first, newest and loose tokens
  kCodes,  // a page of the codec
};

// How the keys of a piece are seen. A key was turned by its schedule at the position its block
// records; here it counts as standing `shift` further on. Scores need the difference of positions
// only, so queries are turned instead of keys.
struct KvView {
  PositionTicks shift = 0;
  int schedule = 0;  // index into the store's schedules
  int group = 0;     // attention group: 0 plain, 1 scaled apart (KvGroupScale)

  bool operator==(const KvView&) const = default;
};

struct KvPiece {
  KvBlockKind kind = KvBlockKind::kRows;
  int block = 0;
  int first_row = 0, n_rows = 0;  // 1 <= n_rows, first_row + n_rows <= kPageTokens
  KvView view;
  bool sink = false;    // first tokens of a text, which stay rows
  bool pinned = false;  // refused by Erase and Truncate
  bool stale = false;   // encoded after another left context than the one it now has
  int view_index = 0;   // into the cache's views; set by the cache
};

// Whether b continues a: the same rows of the same block, seen in the same way.
inline bool Continues(const KvPiece& a, const KvPiece& b) {
  return a.kind == b.kind && a.block == b.block && a.first_row + a.n_rows == b.first_row &&
         a.view == b.view && a.sink == b.sink && a.pinned == b.pinned && a.stale == b.stale;
}

// The pieces of tokens [begin, end) of a sequence, cut where needed.
// 0 <= begin <= end <= number of tokens.
std::vector<KvPiece> SlicePieces(const std::vector<KvPiece>& pieces, int64_t begin, int64_t end);

// Appends one piece, joined to the last where it continues it.
void AppendPiece(const KvPiece& piece, std::vector<KvPiece>* pieces);
void AppendPieces(const std::vector<KvPiece>& more, std::vector<KvPiece>* pieces);

int64_t CountTokens(const std::vector<KvPiece>& pieces);

}  // namespace phasor
