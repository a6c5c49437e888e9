// The KV cache of one sequence: a ledger of pieces over the blocks of a store.
//
// Text that is only appended lies, in order, in three stretches:
//
//   [ sink: n_sink tokens, row codec ][ codes: pages of 128 tokens ][ window: row codec blocks ]
//
// New tokens go into the window. When the window holds more than n_recent + 127 tokens, its oldest
// 128 are encoded by the layer's codec and become a page of codes. So at least n_recent and at most
// n_recent + 127 newest tokens stay in 16 bit between calls (a prefill chunk adds its own tokens
// until it is complete), every codec sees exactly the same tokens, and codes never change. Pages
// are made at the same token counts however the text was cut into calls, as long as Freeze runs
// after each; so one long prefill and many short ones give equal pages.
//
// Text is edited by moving pieces: Erase, Insert, Move, Copy, Attach, Truncate and Fork touch the
// ledger alone, never a key or a value, and cost O(pieces). What follows an edit closes up: its
// positions shift by a constant, which queries make up for (KvView). Positions are exact after any
// number of edits. What such text remembers of its former left context is not: pieces are marked
// stale, n_stale_tokens() counts them.
//
// Errors leave the cache unchanged. Not thread-safe, except that distinct (layer, head) pairs may
// be appended to and read by distinct threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cache/kv_piece.h"
#include "cache/kv_store.h"
#include "contracts/kv_codec.h"
#include "phasor/status.h"

namespace phasor {

struct KvCacheOptions {
  int n_layers = 0, n_kv_heads = 0, head_dim = 0;
  int n_sink = 4;
  int n_recent = 128;
  int n_rot = 0;  // as in KvStoreOptions
  RopePairing pairing = RopePairing::kHalfSplit;
};

// A stretch of tokens in one encoding: what attention iterates over.
struct KvSegment {
  const KvCodec* key_codec;
  const KvCodec* value_codec;
  const std::byte* key_page;
  const std::byte* value_page;
  int64_t first_token;  // index of the stretch's first token in the sequence
  int n_tokens;         // 1 .. kPageTokens
  int first_row;        // row of the page that holds the first token
  int view;             // index for KvCache::turn
};

// How queries are turned before they meet the keys of one view.
struct KvTurn {
  KvView view;
  bool identity = true;  // nothing to turn, scale 1
  float scale = 1.0f;    // multiplies the queries
  // Cosines and sines, [P] for all new tokens, or [n_new, P] where they depend on the position.
  bool per_token = false;
  std::vector<float> cos, sin;

  const float* CosAt(int64_t t, int n_pairs) const {
    return cos.data() + (per_token ? t * n_pairs : 0);
  }
  const float* SinAt(int64_t t, int n_pairs) const {
    return sin.data() + (per_token ? t * n_pairs : 0);
  }
};

// Attention over pieces of group 1 (APE, 2502.05431): scores are divided by `temperature`, and when
// both groups are merged the log-sum-exp of group 1 is multiplied by temperature * scale. Both 1:
// as if there were no groups.
struct KvGroupScale {
  float temperature = 1.0f;
  float scale = 1.0f;
};

struct AttachOptions {
  // Where the span's first token stands; nothing: behind the newest token.
  std::optional<PositionTicks> position;
  // The left context is the one the span was encoded with, so nothing becomes stale.
  bool same_left_context = false;
  int group = 0;
  bool keep_next_position = false;  // next_position() stays, whatever the span's extent
  bool keep_pinned = false;         // what was pinned in the span is pinned again
};

class KvCache {
 public:
  // A sequence with a store of its own, one schedule that turns nothing until SetSchedule.
  KvCache(const KvCacheOptions& options, std::vector<KvHeadCodecs> codecs);
  // A sequence over a shared store. n_layers, n_kv_heads, head_dim, n_rot and pairing of the
  // options are taken from the store.
  KvCache(const KvCacheOptions& options, std::shared_ptr<KvStore> store);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  int64_t n_tokens() const { return n_tokens_; }
  const KvCacheOptions& options() const { return options_; }
  const std::shared_ptr<KvStore>& store() const { return store_; }
  const KvHeadCodecs& codecs(int layer, int head) const { return store_->codecs(layer, head); }
  const std::vector<KvPiece>& pieces() const { return pieces_; }

  // The schedule of tokens from now on; those in the cache keep theirs, and attention turns
  // queries for each. table.step_P has n_rot / 2 entries.
  void SetSchedule(const PhaseTable& table);
  const PhaseTable& schedule() const { return store_->schedule(schedule_); }

  // Makes room for n more tokens in every head, at `positions` [n] or, when that is empty, one
  // position apart from next_position() on. kResourceExhausted leaves the cache unchanged.
  Status Reserve(int n, std::span<const PositionTicks> positions = {});
  // Positions that the reserved tokens' queries and keys are to be turned at, [n]. (Their own less
  // the shift they share with the tokens before them.)
  std::span<const PositionTicks> stored_positions() const { return pending_positions_; }
  // Writes n rows [n, D] (after RoPE, in model basis; rotated by the codec here) of one head at
  // reserved tokens [first, first + n). x is overwritten where the codec has a rotation. Threads
  // may write different rows and heads at the same time.
  void AppendHead(int layer, int head, float* k_ND, float* v_ND, int n, int first = 0);
  // Makes the n reserved and appended tokens of all heads part of the sequence.
  void CommitAppend(int n);
  // Encodes what is older than the window: whole pages, and loose rows between edits where a page
  // takes less room than they do. Where no memory is left rows stay rows.
  void Freeze(ThreadPool& pool) { FreezeOlderThan(n_tokens_ - options_.n_recent, pool); }
  // The same for tokens before `end`, whatever n_recent says: for texts that will not grow.
  void FreezeOlderThan(int64_t end, ThreadPool& pool);

  // Segments of one head covering tokens [0, n_tokens() + n_uncommitted).
  void Segments(int layer, int head, int n_uncommitted, std::vector<KvSegment>* out) const;
  // Views of the segments; the first is that of the newest tokens and the identity.
  int n_turns() const { return static_cast<int>(turns_.size()); }
  const KvTurn& turn(int view) const { return turns_[view]; }
  // Whether any piece belongs to group 1.
  bool has_groups() const { return has_groups_; }
  const KvGroupScale& group_scale() const { return group_scale_; }
  void SetGroupScale(const KvGroupScale& scale);

  // --- positions ---
  PositionTicks next_position() const { return next_position_; }
  void SetNextPosition(PositionTicks position) { next_position_ = position; }
  // 0 <= token <= n_tokens(); the end gives next_position().
  PositionTicks PositionOf(int64_t token) const;

  // --- editing; kOutOfRange for tokens that are not there, kInvalidArgument as said ---
  Result<KvSpan> Slice(int64_t begin, int64_t end) const;
  // Forgets tokens from n on. Pinned ones are refused (kInvalidArgument) unless even_pinned.
  Status Truncate(int64_t n_tokens, bool even_pinned = false);
  // Forgets everything, pinned or not.
  void Clear();
  // Puts a span behind the newest token. kInvalidArgument for a span of another store.
  Status Attach(const KvSpan& span, const AttachOptions& options = {});
  // Removes tokens; what follows closes up. Pinned ones are refused.
  Status Erase(int64_t begin, int64_t end);
  // Puts a span before token `at`; what follows makes room.
  Status Insert(int64_t at, const KvSpan& span);
  // Moves tokens [begin, end) so that they stand before the token that is now `to`, which lies
  // outside of them.
  Status Move(int64_t begin, int64_t end, int64_t to);
  Status Copy(int64_t begin, int64_t end, int64_t to);
  // Protects tokens from Erase and Truncate, or gives them free.
  Status Pin(int64_t begin, int64_t end, bool pinned = true);
  // Whether any of these tokens, which are there, is pinned.
  bool AnyPinned(int64_t begin, int64_t end) const;
  // A second sequence with the same tokens; blocks are shared until one of them writes.
  std::unique_ptr<KvCache> Fork() const;
  // Says that tokens [begin, end) have the left context they were encoded with after all.
  void MarkFresh(int64_t begin, int64_t end);

  // Tokens whose left context has changed since they were encoded.
  int64_t n_stale_tokens() const;

  // Pages of codes in this sequence, and the tokens in them.
  int64_t n_frozen_pages() const;
  int64_t n_frozen_tokens() const;
  // Bytes that hold tokens: pages of codes with their metadata, and the 16-bit rows in use. Blocks
  // shared with other sequences count in each.
  std::size_t UsedBytes() const;
  std::size_t FrozenBytes() const;
  // Bytes taken from the system by the store, room for more tokens included.
  std::size_t AllocatedBytes() const { return store_->AllocatedBytes(); }

 private:
  struct FreezeItem;
  struct FreezePlan;
  class FreezePlanner;

  KvView append_view() const { return turns_[0].view; }
  Status CheckRange(const char* what, int64_t begin, int64_t end) const;
  Status CheckUnpinned(const char* what, int64_t begin, int64_t end) const;
  // Replaces the ledger. Cannot fail.
  void Commit(std::vector<KvPiece> pieces, PositionTicks next_position);
  void DropPending();
  bool MayGrow(const KvPiece& piece) const;
  Status ReservePieces(int n, std::vector<KvPiece>* pending);
  void AssignViews();
  void BuildTurns();
  void EncodeItem(const FreezeItem& item, int layer, int head, std::vector<float>* rows) const;

  KvCacheOptions options_;
  std::shared_ptr<KvStore> store_;
  int schedule_ = 0;
  std::vector<KvPiece> pieces_;
  int64_t n_tokens_ = 0;
  PositionTicks next_position_ = 0;
  std::vector<KvPiece> pending_;  // reserved, not committed
  std::vector<PositionTicks> pending_positions_;
  PositionTicks pending_next_ = 0;
  std::vector<KvTurn> turns_;
  bool turns_built_ = false;
  bool has_groups_ = false;
  KvGroupScale group_scale_;
};

}  // namespace phasor
