// The blocks that hold cached tokens, reference-counted and shared between sequences.
//
// A block is one page slot in every (layer, KV head): keys and values of up to kPageTokens tokens,
// either as 16-bit rows or as codes. Blocks are handed out, written once and never changed
// afterwards, except that rows may be added behind those that are there: by the only sequence that
// holds the block, or by the first that wants to. Others that share it take a new one.
//
// Thread rule: all sequences and spans of a store are used by one thread at a time; only pages of
// distinct (layer, head) pairs may be written and read by distinct threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/huge_pages.h"
#include "cache/kv_piece.h"
#include "contracts/kv_codec.h"
#include "contracts/position_method.h"
#include "phasor/status.h"

namespace phasor {

struct KvStoreOptions {
  int n_layers = 0, n_kv_heads = 0, head_dim = 0;
  // Dimensions that RoPE turns, from PhaseTable on; 0: keys know no position, moving leaves scores
  // as they are.
  int n_rot = 0;
  RopePairing pairing = RopePairing::kHalfSplit;
  // What the key codecs were made with (KvCodecParams::omega_P): sessions of other schedules may
  // share the store, but not files.
  std::vector<float> codec_omega_P = {};
};

// The codecs of one (layer, KV head). The row codecs hold sink and window.
struct KvHeadCodecs {
  std::unique_ptr<KvCodec> key, value;
  std::unique_ptr<RowKvCodec> key_rows, value_rows;
};

class KvStore {
 public:
  // codecs: [n_layers * n_kv_heads], layer-major. Checked by the caller to fit head_dim.
  KvStore(const KvStoreOptions& options, std::vector<KvHeadCodecs> codecs);
  ~KvStore();

  const KvStoreOptions& options() const { return options_; }
  const KvHeadCodecs& codecs(int layer, int head) const { return codecs_[Index(layer, head)]; }
  int n_heads() const { return options_.n_layers * options_.n_kv_heads; }

  // The schedules that keys of this store were turned with; equal tables share an index. The first
  // call gives index 0.
  int AddSchedule(const PhaseTable& table);
  const PhaseTable& schedule(int index) const { return schedules_[index]; }
  int n_schedules() const { return static_cast<int>(schedules_.size()); }

  // A block with one reference, no rows filled. kResourceExhausted changes nothing.
  Result<int> Take(KvBlockKind kind);
  void Retain(const std::vector<KvPiece>& pieces);
  void Release(const std::vector<KvPiece>& pieces);
  void Retain(KvBlockKind kind, int block);
  void Release(KvBlockKind kind, int block);
  int References(KvBlockKind kind, int block) const;

  // Rows written or reserved so far, and the position each token's key was turned at.
  int n_filled(KvBlockKind kind, int block) const { return Get(kind, block).n_filled; }
  void SetFilled(KvBlockKind kind, int block, int n) { Get(kind, block).n_filled = n; }
  PositionTicks* positions(KvBlockKind kind, int block) { return Get(kind, block).positions; }
  const PositionTicks* positions(KvBlockKind kind, int block) const {
    return Get(kind, block).positions;
  }

  // Pages of a block, PageBytes() of the codec of that kind, 64-byte aligned. Valid as long as the
  // store: pages never move.
  std::byte* KeyPage(KvBlockKind kind, int block, int layer, int head);
  std::byte* ValuePage(KvBlockKind kind, int block, int layer, int head);
  const std::byte* KeyPage(KvBlockKind kind, int block, int layer, int head) const;
  const std::byte* ValuePage(KvBlockKind kind, int block, int layer, int head) const;
  std::size_t KeyBytes(KvBlockKind kind, int layer, int head) const;
  std::size_t ValueBytes(KvBlockKind kind, int layer, int head) const;

  // Bytes of one block over all layers and heads, without alignment.
  std::size_t BlockBytes(KvBlockKind kind) const { return block_bytes_[static_cast<int>(kind)]; }
  int n_blocks_in_use(KvBlockKind kind) const;
  std::size_t AllocatedBytes() const;

 private:
  struct PageStore;
  struct Block {
    int references = 0;
    int n_filled = 0;
    PositionTicks positions[kPageTokens] = {};
  };
  struct Pool {
    std::vector<PageStore> pages;  // [n_layers * n_kv_heads]
    std::deque<Block> blocks;
    std::vector<int> free;
  };

  int Index(int layer, int head) const { return layer * options_.n_kv_heads + head; }
  Pool& pool(KvBlockKind kind) { return pools_[static_cast<int>(kind)]; }
  const Pool& pool(KvBlockKind kind) const { return pools_[static_cast<int>(kind)]; }
  Block& Get(KvBlockKind kind, int block) { return pool(kind).blocks[block]; }
  const Block& Get(KvBlockKind kind, int block) const { return pool(kind).blocks[block]; }

  KvStoreOptions options_;
  std::vector<KvHeadCodecs> codecs_;
  std::deque<PhaseTable> schedules_;
  std::size_t block_bytes_[2] = {};
  Pool pools_[2];
};

// Cached tokens that can be put into any sequence of the same store, at any position. Holds
// references: the blocks stay while the span lives.
class KvSpan {
 public:
  KvSpan() = default;
  // Takes further references on the pieces' blocks. first, end: positions in the sequence the span
  // comes from, of its first token and behind its last.
  KvSpan(std::shared_ptr<KvStore> store, std::vector<KvPiece> pieces, PositionTicks first,
         PositionTicks end);
  KvSpan(const KvSpan& o);
  KvSpan(KvSpan&& o) noexcept { Swap(o); }
  KvSpan& operator=(KvSpan o) noexcept {
    Swap(o);
    return *this;
  }
  ~KvSpan();

  const std::shared_ptr<KvStore>& store() const { return store_; }
  const std::vector<KvPiece>& pieces() const { return pieces_; }
  int64_t n_tokens() const { return CountTokens(pieces_); }
  PositionTicks first_position() const { return first_; }
  PositionTicks end_position() const { return end_; }
  bool empty() const { return pieces_.empty(); }

 private:
  void Swap(KvSpan& o) noexcept {
    std::swap(store_, o.store_);
    std::swap(pieces_, o.pieces_);
    std::swap(first_, o.first_);
    std::swap(end_, o.end_);
  }

  std::shared_ptr<KvStore> store_;
  std::vector<KvPiece> pieces_;
  PositionTicks first_ = 0, end_ = 0;
};

}  // namespace phasor
