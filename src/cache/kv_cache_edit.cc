// The operations of KvCache that change where text stands. Each builds the new ledger beside the
// old one and then swaps, so that an error leaves everything as it was.
#include <algorithm>

#include "base/check.h"
#include "cache/kv_cache.h"

namespace phasor {
namespace {

void Shift(PositionTicks by, std::vector<KvPiece>* pieces) {
  for (KvPiece& piece : *pieces) piece.view.shift += by;
}

void MarkStale(std::vector<KvPiece>* pieces) {
  for (KvPiece& piece : *pieces) piece.stale = true;
}

std::string RangeText(int64_t begin, int64_t end) {
  return "[" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

}  // namespace

Status KvCache::CheckRange(const char* what, int64_t begin, int64_t end) const {
  if (0 <= begin && begin <= end && end <= n_tokens_) return Status::Ok();
  return OutOfRange("cache: " + std::string(what) + ": expected tokens within " +
                    RangeText(0, n_tokens_) + ", found " + RangeText(begin, end));
}

bool KvCache::AnyPinned(int64_t begin, int64_t end) const {
  const std::vector<KvPiece> pieces = SlicePieces(pieces_, begin, end);
  return std::any_of(pieces.begin(), pieces.end(), [](const KvPiece& p) { return p.pinned; });
}

Status KvCache::CheckUnpinned(const char* what, int64_t begin, int64_t end) const {
  if (!AnyPinned(begin, end)) return Status::Ok();
  return InvalidArgument("cache: " + std::string(what) +
                         ": expected tokens that are not pinned, found pinned ones in " +
                         RangeText(begin, end) + "; unpin them first");
}

void KvCache::Commit(std::vector<KvPiece> pieces, PositionTicks next_position) {
  DropPending();
  store_->Retain(pieces);
  store_->Release(pieces_);
  pieces_ = std::move(pieces);
  n_tokens_ = CountTokens(pieces_);
  next_position_ = next_position;
  AssignViews();
}

PositionTicks KvCache::PositionOf(int64_t token) const {
  PHASOR_CHECK(0 <= token && token <= n_tokens_);
  for (const KvPiece& piece : pieces_) {
    if (token < piece.n_rows) {
      const PositionTicks* at = store_->positions(piece.kind, piece.block);
      return at[piece.first_row + token] + piece.view.shift;
    }
    token -= piece.n_rows;
  }
  return next_position_;
}

Result<KvSpan> KvCache::Slice(int64_t begin, int64_t end) const {
  PHASOR_RETURN_IF_ERROR(CheckRange("slice", begin, end));
  return KvSpan(store_, SlicePieces(pieces_, begin, end), PositionOf(begin), PositionOf(end));
}

Status KvCache::Truncate(int64_t n, bool even_pinned) {
  if (n < 0 || n > n_tokens_) {
    return OutOfRange("cache: expected a length between 0 and " + std::to_string(n_tokens_) +
                      ", found " + std::to_string(n));
  }
  if (n == n_tokens_) {
    DropPending();
    return Status::Ok();
  }
  if (!even_pinned) PHASOR_RETURN_IF_ERROR(CheckUnpinned("truncate", n, n_tokens_));
  // An empty cache starts over at position 0.
  Commit(SlicePieces(pieces_, 0, n), n == 0 ? 0 : PositionOf(n));
  return Status::Ok();
}

void KvCache::Clear() { Commit({}, 0); }

Status KvCache::Attach(const KvSpan& span, const AttachOptions& options) {
  if (span.empty()) return Status::Ok();
  if (span.store() != store_) {
    return InvalidArgument(
        "cache: attach: expected a span of the same model, cache types and store, found one of "
        "another store");
  }
  PHASOR_CHECK(options.group == 0 || options.group == 1);
  const PositionTicks at = options.position.value_or(next_position_);
  std::vector<KvPiece> added = span.pieces(), pieces = pieces_;
  Shift(at - span.first_position(), &added);
  for (KvPiece& piece : added) {
    piece.view.group = options.group;
    piece.pinned = piece.pinned && options.keep_pinned;
    if (!pieces_.empty()) piece.sink = false;
  }
  if (!options.same_left_context) MarkStale(&added);
  AppendPieces(added, &pieces);
  Commit(std::move(pieces), options.keep_next_position
                                ? next_position_
                                : at + span.end_position() - span.first_position());
  return Status::Ok();
}

Status KvCache::Erase(int64_t begin, int64_t end) {
  PHASOR_RETURN_IF_ERROR(CheckRange("erase", begin, end));
  if (begin == end) return Status::Ok();
  PHASOR_RETURN_IF_ERROR(CheckUnpinned("erase", begin, end));
  if (end == n_tokens_) return Truncate(begin);
  const PositionTicks gap = PositionOf(end) - PositionOf(begin);
  std::vector<KvPiece> pieces = SlicePieces(pieces_, 0, begin);
  std::vector<KvPiece> rest = SlicePieces(pieces_, end, n_tokens_);
  Shift(-gap, &rest);
  MarkStale(&rest);
  AppendPieces(rest, &pieces);
  Commit(std::move(pieces), next_position_ - gap);
  return Status::Ok();
}

Status KvCache::Insert(int64_t at, const KvSpan& span) {
  PHASOR_RETURN_IF_ERROR(CheckRange("insert", at, at));
  if (span.empty()) return Status::Ok();
  if (at == n_tokens_) return Attach(span);
  if (span.store() != store_) {
    return InvalidArgument(
        "cache: insert: expected a span of the same model, cache types and store, found one of "
        "another store");
  }
  const PositionTicks room = span.end_position() - span.first_position();
  std::vector<KvPiece> pieces = SlicePieces(pieces_, 0, at), added = span.pieces();
  Shift(PositionOf(at) - span.first_position(), &added);
  for (KvPiece& piece : added) {
    piece.sink = piece.sink && pieces_.empty();
    piece.pinned = false;
  }
  std::vector<KvPiece> rest = SlicePieces(pieces_, at, n_tokens_);
  Shift(room, &rest);
  MarkStale(&added);
  MarkStale(&rest);
  AppendPieces(added, &pieces);
  AppendPieces(rest, &pieces);
  Commit(std::move(pieces), next_position_ + room);
  return Status::Ok();
}

Status KvCache::Move(int64_t begin, int64_t end, int64_t to) {
  PHASOR_RETURN_IF_ERROR(CheckRange("move", begin, end));
  PHASOR_RETURN_IF_ERROR(CheckRange("move", to, to));
  if (begin < to && to < end) {
    return InvalidArgument("cache: move: expected a place outside of " + RangeText(begin, end) +
                           ", found " + std::to_string(to));
  }
  if (begin == end || to == begin || to == end) return Status::Ok();
  // Two neighbours change places: [first, middle) goes behind [middle, last).
  const int64_t first = std::min(begin, to), last = std::max(end, to);
  const int64_t middle = to < begin ? begin : end;
  const PositionTicks start = PositionOf(first);
  std::vector<KvPiece> pieces = SlicePieces(pieces_, 0, first);
  std::vector<KvPiece> left = SlicePieces(pieces_, first, middle);
  std::vector<KvPiece> right = SlicePieces(pieces_, middle, last);
  std::vector<KvPiece> rest = SlicePieces(pieces_, last, n_tokens_);
  const PositionTicks left_room = PositionOf(middle) - start;
  const PositionTicks right_room = PositionOf(last) - PositionOf(middle);
  Shift(right_room, &left);
  Shift(-left_room, &right);
  for (std::vector<KvPiece>* part : {&right, &left, &rest}) {
    MarkStale(part);
    AppendPieces(*part, &pieces);
  }
  Commit(std::move(pieces), next_position_);
  return Status::Ok();
}

Status KvCache::Copy(int64_t begin, int64_t end, int64_t to) {
  PHASOR_ASSIGN_OR_RETURN(const KvSpan span, Slice(begin, end));
  return Insert(to, span);
}

Status KvCache::Pin(int64_t begin, int64_t end, bool pinned) {
  PHASOR_RETURN_IF_ERROR(CheckRange("pin", begin, end));
  std::vector<KvPiece> pieces = SlicePieces(pieces_, 0, begin);
  std::vector<KvPiece> part = SlicePieces(pieces_, begin, end);
  for (KvPiece& piece : part) piece.pinned = pinned;
  AppendPieces(part, &pieces);
  AppendPieces(SlicePieces(pieces_, end, n_tokens_), &pieces);
  Commit(std::move(pieces), next_position_);
  return Status::Ok();
}

void KvCache::MarkFresh(int64_t begin, int64_t end) {
  PHASOR_CHECK(CheckRange("mark", begin, end).ok());
  std::vector<KvPiece> pieces = SlicePieces(pieces_, 0, begin);
  std::vector<KvPiece> part = SlicePieces(pieces_, begin, end);
  for (KvPiece& piece : part) piece.stale = false;
  AppendPieces(part, &pieces);
  AppendPieces(SlicePieces(pieces_, end, n_tokens_), &pieces);
  Commit(std::move(pieces), next_position_);
}

std::unique_ptr<KvCache> KvCache::Fork() const {
  auto fork = std::make_unique<KvCache>(options_, store_);
  fork->schedule_ = schedule_;
  fork->group_scale_ = group_scale_;
  fork->Commit(pieces_, next_position_);
  return fork;
}

}  // namespace phasor
