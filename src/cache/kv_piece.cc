#include "cache/kv_piece.h"

#include <algorithm>

#include "base/check.h"

namespace phasor {

std::vector<KvPiece> SlicePieces(const std::vector<KvPiece>& pieces, int64_t begin, int64_t end) {
  PHASOR_CHECK(0 <= begin && begin <= end);
  std::vector<KvPiece> out;
  int64_t token = 0;
  for (const KvPiece& piece : pieces) {
    const int64_t first = std::max(begin, token), last = std::min(end, token + piece.n_rows);
    if (first < last) {
      KvPiece part = piece;
      part.first_row += static_cast<int>(first - token);
      part.n_rows = static_cast<int>(last - first);
      out.push_back(part);
    }
    token += piece.n_rows;
    if (token >= end) break;
  }
  PHASOR_CHECK(token >= end);
  return out;
}

void AppendPiece(const KvPiece& piece, std::vector<KvPiece>* pieces) {
  if (!pieces->empty() && Continues(pieces->back(), piece)) {
    pieces->back().n_rows += piece.n_rows;
  } else {
    pieces->push_back(piece);
  }
}

void AppendPieces(const std::vector<KvPiece>& more, std::vector<KvPiece>* pieces) {
  for (const KvPiece& piece : more) AppendPiece(piece, pieces);
}

int64_t CountTokens(const std::vector<KvPiece>& pieces) {
  int64_t n = 0;
  for (const KvPiece& piece : pieces) n += piece.n_rows;
  return n;
}

}  // namespace phasor
