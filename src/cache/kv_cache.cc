#include "cache/kv_cache.h"

#include <algorithm>

#include "base/check.h"
#include "ops/vector_ops.h"

namespace phasor {
namespace {

KvStoreOptions StoreOptions(const KvCacheOptions& o) {
  return {o.n_layers, o.n_kv_heads, o.head_dim, o.n_rot, o.pairing};
}

}  // namespace

KvCache::KvCache(const KvCacheOptions& options, std::vector<KvHeadCodecs> codecs)
    : KvCache(options, std::make_shared<KvStore>(StoreOptions(options), std::move(codecs))) {}

KvCache::KvCache(const KvCacheOptions& options, std::shared_ptr<KvStore> store)
    : options_(options), store_(std::move(store)) {
  const KvStoreOptions& s = store_->options();
  options_.n_layers = s.n_layers;
  options_.n_kv_heads = s.n_kv_heads;
  options_.head_dim = s.head_dim;
  options_.n_rot = s.n_rot;
  options_.pairing = s.pairing;
  PHASOR_CHECK(options.n_sink >= 0 && options.n_sink <= kPageTokens && options.n_recent >= 0);
  SetSchedule({.step_P = std::vector<uint64_t>(static_cast<std::size_t>(s.n_rot / 2), 0)});
}

KvCache::~KvCache() {
  DropPending();
  store_->Release(pieces_);
}

void KvCache::SetSchedule(const PhaseTable& table) {
  schedule_ = store_->AddSchedule(table);
  AssignViews();
}

void KvCache::SetGroupScale(const KvGroupScale& scale) {
  group_scale_ = scale;
  turns_built_ = false;
}

void KvCache::DropPending() {
  for (const KvPiece& piece : pending_) {
    if (store_->n_filled(piece.kind, piece.block) == piece.first_row + piece.n_rows) {
      store_->SetFilled(piece.kind, piece.block, piece.first_row);
    }
  }
  store_->Release(pending_);
  pending_.clear();
  pending_positions_.clear();
}

// Whether rows may be written behind this piece: nobody else holds its block, or nobody has written
// there yet. So one of several forks goes on in the block they share, and the others in their own.
bool KvCache::MayGrow(const KvPiece& piece) const {
  return store_->References(piece.kind, piece.block) == 1 ||
         store_->n_filled(piece.kind, piece.block) == piece.first_row + piece.n_rows;
}

Status KvCache::ReservePieces(int n, std::vector<KvPiece>* pending) {
  const bool sinks_only = pieces_.empty() || pieces_.back().sink;
  int sink_left =
      sinks_only ? static_cast<int>(std::max<int64_t>(0, options_.n_sink - n_tokens_)) : 0;
  const KvPiece* last = pieces_.empty() ? nullptr : &pieces_.back();
  for (int done = 0; done < n;) {
    const bool sink = sink_left > 0;
    KvPiece piece{.view = append_view(), .sink = sink};
    const bool goes_on = last != nullptr && last->kind == KvBlockKind::kRows &&
                         last->sink == sink && last->view == piece.view &&
                         last->first_row + last->n_rows < kPageTokens && MayGrow(*last);
    if (goes_on) {
      piece.block = last->block;
      piece.first_row = last->first_row + last->n_rows;
      store_->Retain(KvBlockKind::kRows, piece.block);
    } else {
      PHASOR_ASSIGN_OR_RETURN(piece.block, store_->Take(KvBlockKind::kRows));
    }
    piece.n_rows = std::min(n - done, kPageTokens - piece.first_row);
    if (sink) {
      piece.n_rows = std::min(piece.n_rows, sink_left);
      sink_left -= piece.n_rows;
    }
    store_->SetFilled(KvBlockKind::kRows, piece.block, piece.first_row + piece.n_rows);
    pending->push_back(piece);
    done += piece.n_rows;
    last = nullptr;  // only the first piece continues what is there
  }
  return Status::Ok();
}

Status KvCache::Reserve(int n, std::span<const PositionTicks> positions) {
  PHASOR_CHECK(n >= 1 && (positions.empty() || static_cast<int>(positions.size()) == n));
  DropPending();
  if (Status status = ReservePieces(n, &pending_); !status.ok()) {
    DropPending();
    return status.WithPrefix(std::to_string(n_tokens_ + n) + " tokens");
  }
  const PositionTicks shift = append_view().shift;
  pending_positions_.resize(static_cast<std::size_t>(n));
  for (int t = 0; t < n; ++t) {
    const PositionTicks at =
        positions.empty() ? next_position_ + t * kTicksPerPosition : positions[t];
    pending_positions_[t] = at - shift;
  }
  pending_next_ = pending_positions_.back() + shift + kTicksPerPosition;
  int done = 0;
  for (const KvPiece& piece : pending_) {
    PositionTicks* at = store_->positions(piece.kind, piece.block) + piece.first_row;
    std::copy_n(pending_positions_.begin() + done, piece.n_rows, at);
    done += piece.n_rows;
  }
  BuildTurns();
  return Status::Ok();
}

void KvCache::AppendHead(int layer, int head, float* k_ND, float* v_ND, int n, int first) {
  const KvHeadCodecs& c = codecs(layer, head);
  const int D = options_.head_dim;
  if (c.key->HasRotation()) c.key->Rotate(k_ND, n);
  if (c.value->HasRotation()) c.value->Rotate(v_ND, n);
  int begin = 0;  // of the piece, in reserved tokens
  for (const KvPiece& piece : pending_) {
    const int at = std::max(first, begin), end = std::min(first + n, begin + piece.n_rows);
    if (at < end) {
      const int64_t from = static_cast<int64_t>(at - first) * D;
      const int row = piece.first_row + (at - begin);
      c.key_rows->EncodeRows(k_ND + from, row, end - at,
                             store_->KeyPage(piece.kind, piece.block, layer, head));
      c.value_rows->EncodeRows(v_ND + from, row, end - at,
                               store_->ValuePage(piece.kind, piece.block, layer, head));
    }
    begin += piece.n_rows;
  }
}

void KvCache::CommitAppend(int n) {
  PHASOR_CHECK(n == CountTokens(pending_));
  for (const KvPiece& piece : pending_) {
    const std::size_t before = pieces_.size();
    AppendPiece(piece, &pieces_);
    // Joined to its predecessor, which holds a reference already.
    if (pieces_.size() == before) store_->Release(piece.kind, piece.block);
  }
  pending_.clear();
  pending_positions_.clear();
  n_tokens_ += n;
  next_position_ = pending_next_;
}

void KvCache::Segments(int layer, int head, int n_uncommitted, std::vector<KvSegment>* out) const {
  const KvHeadCodecs& c = codecs(layer, head);
  out->clear();
  int64_t token = 0;
  auto add = [&](const KvPiece& piece, int n_rows) {
    const bool rows = piece.kind == KvBlockKind::kRows;
    out->push_back({.key_codec = rows ? c.key_rows.get() : c.key.get(),
                    .value_codec = rows ? c.value_rows.get() : c.value.get(),
                    .key_page = store_->KeyPage(piece.kind, piece.block, layer, head),
                    .value_page = store_->ValuePage(piece.kind, piece.block, layer, head),
                    .first_token = token,
                    .n_tokens = n_rows,
                    .first_row = piece.first_row,
                    .view = piece.view_index});
    token += n_rows;
  };
  for (const KvPiece& piece : pieces_) add(piece, piece.n_rows);
  int left = n_uncommitted;
  for (const KvPiece& piece : pending_) {
    if (left <= 0) break;
    const int n = std::min(left, piece.n_rows);
    left -= n;
    if (!pieces_.empty() && &piece == &pending_.front() && Continues(pieces_.back(), piece)) {
      out->back().n_tokens += n;
      token += n;
    } else {
      add(piece, n);
    }
  }
}

// Numbers the views of all pieces. Tables follow in BuildTurns, so that edits cost no cosines.
void KvCache::AssignViews() {
  turns_built_ = false;
  has_groups_ = false;
  KvView newest{.shift = 0, .schedule = schedule_, .group = 0};
  if (!pieces_.empty() && pieces_.back().view.schedule == schedule_ &&
      pieces_.back().view.group == 0) {
    newest.shift = pieces_.back().view.shift;
  }
  turns_.clear();
  turns_.emplace_back().view = newest;
  int last = 0;
  for (KvPiece& piece : pieces_) {
    if (piece.view.group != 0) has_groups_ = true;
    if (!(turns_[last].view == piece.view)) {
      const auto found = std::find_if(turns_.begin(), turns_.end(),
                                      [&](const KvTurn& turn) { return turn.view == piece.view; });
      last = static_cast<int>(found - turns_.begin());
      if (found == turns_.end()) turns_.emplace_back().view = piece.view;
    }
    piece.view_index = last;
  }
}

// A query was turned by the present schedule at its stored position p - s0 (s0: the newest tokens'
// shift). A key of a view was turned by the view's schedule at its own stored position and counts
// as standing `shift` further on, so it wants the query at p - shift under that schedule.
void KvCache::BuildTurns() {
  const PhaseTable& now = store_->schedule(schedule_);
  const KvView newest = append_view();
  const bool positions_matter = std::any_of(turns_.begin(), turns_.end(), [&](const KvTurn& turn) {
    return turn.view.schedule != schedule_;
  });
  if (turns_built_ && !positions_matter) return;
  std::vector<uint64_t> turns_P(now.step_P.size());
  for (KvTurn& turn : turns_) {
    const PhaseTable& table = store_->schedule(turn.view.schedule);
    turn.per_token = turn.view.schedule != schedule_;
    turn.scale = table.attention_factor / now.attention_factor;
    if (turn.view.group == 1) turn.scale /= group_scale_.temperature;
    turn.identity = !turn.per_token && turn.view.shift == newest.shift && turn.scale == 1.0f;
    if (turn.identity) continue;
    const std::size_t n = turn.per_token ? pending_positions_.size() : 1, P = turns_P.size();
    turn.cos.resize(n * P);
    turn.sin.resize(n * P);
    for (std::size_t t = 0; t < n; ++t) {
      for (std::size_t j = 0; j < P; ++j) {
        if (turn.per_token) {
          const PositionTicks stored = pending_positions_[t];
          turns_P[j] = TurnsAt(table.step_P[j], stored + newest.shift - turn.view.shift) -
                       TurnsAt(now.step_P[j], stored);
        } else {
          turns_P[j] = TurnsAt(now.step_P[j], newest.shift - turn.view.shift);
        }
      }
      TurnsToAngles(turns_P, 1.0, turn.cos.data() + t * P, turn.sin.data() + t * P);
    }
  }
  turns_built_ = true;
}

int64_t KvCache::n_stale_tokens() const {
  int64_t n = 0;
  for (const KvPiece& piece : pieces_) n += piece.stale ? piece.n_rows : 0;
  return n;
}

int64_t KvCache::n_frozen_tokens() const {
  int64_t n = 0;
  for (const KvPiece& piece : pieces_) n += piece.kind == KvBlockKind::kCodes ? piece.n_rows : 0;
  return n;
}

int64_t KvCache::n_frozen_pages() const {
  std::vector<int> blocks;
  for (const KvPiece& piece : pieces_) {
    if (piece.kind == KvBlockKind::kCodes) blocks.push_back(piece.block);
  }
  std::sort(blocks.begin(), blocks.end());
  return std::unique(blocks.begin(), blocks.end()) - blocks.begin();
}

std::size_t KvCache::FrozenBytes() const {
  return store_->BlockBytes(KvBlockKind::kCodes) * static_cast<std::size_t>(n_frozen_pages());
}

std::size_t KvCache::UsedBytes() const {
  const auto rows = static_cast<std::size_t>(n_tokens_ - n_frozen_tokens());
  return FrozenBytes() + store_->BlockBytes(KvBlockKind::kRows) * rows / kPageTokens;
}

}  // namespace phasor
