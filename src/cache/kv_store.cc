#include "cache/kv_store.h"

#include <new>

#include "base/aligned.h"
#include "base/check.h"

namespace phasor {

// Pairs of a key page and a value page, side by side, so that decoding reads one stream per head;
// allocated in slabs that never move, so that segments stay valid.
struct KvStore::PageStore {
  PageStore(std::size_t key_bytes, std::size_t value_bytes, int pages_per_slab)
      : key_bytes(key_bytes),
        value_bytes(value_bytes),
        value_offset(Aligned(key_bytes)),
        stride(Aligned(key_bytes) + Aligned(value_bytes)),
        pages_per_slab(pages_per_slab) {}

  static std::size_t Aligned(std::size_t n) {
    return (n + kAlignment - 1) / kAlignment * kAlignment;
  }
  const std::byte* Key(int i) const {
    return slabs[i / pages_per_slab].data() + static_cast<std::size_t>(i % pages_per_slab) * stride;
  }
  // Throws std::bad_alloc.
  void Ensure(int n) {
    while (static_cast<int>(slabs.size()) * pages_per_slab < n) {
      slabs.emplace_back(stride * pages_per_slab);
    }
  }

  std::size_t key_bytes, value_bytes, value_offset, stride;
  int pages_per_slab;
  std::vector<HugeBlock> slabs;
};

KvStore::KvStore(const KvStoreOptions& options, std::vector<KvHeadCodecs> codecs)
    : options_(options), codecs_(std::move(codecs)) {
  PHASOR_CHECK(static_cast<int>(codecs_.size()) == options.n_layers * options.n_kv_heads);
  for (const KvHeadCodecs& c : codecs_) {
    pool(KvBlockKind::kRows)
        .pages.emplace_back(c.key_rows->PageBytes(), c.value_rows->PageBytes(), 1);
    pool(KvBlockKind::kCodes).pages.emplace_back(c.key->PageBytes(), c.value->PageBytes(), 8);
  }
  for (KvBlockKind kind : {KvBlockKind::kRows, KvBlockKind::kCodes}) {
    for (const PageStore& p : pool(kind).pages) {
      block_bytes_[static_cast<int>(kind)] += p.key_bytes + p.value_bytes;
    }
  }
}

KvStore::~KvStore() = default;

int KvStore::AddSchedule(const PhaseTable& table) {
  PHASOR_CHECK(static_cast<int>(table.step_P.size()) == options_.n_rot / 2);
  for (int i = 0; i < n_schedules(); ++i) {
    if (schedules_[i] == table) return i;
  }
  schedules_.push_back(table);
  return n_schedules() - 1;
}

Result<int> KvStore::Take(KvBlockKind kind) {
  Pool& p = pool(kind);
  if (!p.free.empty()) {
    const int block = p.free.back();
    p.free.pop_back();
    p.blocks[block].references = 1;
    p.blocks[block].n_filled = 0;
    return block;
  }
  const int block = static_cast<int>(p.blocks.size());
  try {
    for (PageStore& pages : p.pages) pages.Ensure(block + 1);
    p.free.reserve(p.blocks.size() + 1);  // giving back never fails
    p.blocks.emplace_back();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("cache: no memory for another block of " +
                             std::to_string(kPageTokens) + " tokens");
  }
  p.blocks[block].references = 1;
  return block;
}

void KvStore::Retain(KvBlockKind kind, int block) { ++Get(kind, block).references; }

void KvStore::Release(KvBlockKind kind, int block) {
  Block& b = Get(kind, block);
  PHASOR_CHECK(b.references > 0);
  if (--b.references == 0) pool(kind).free.push_back(block);
}

void KvStore::Retain(const std::vector<KvPiece>& pieces) {
  for (const KvPiece& piece : pieces) Retain(piece.kind, piece.block);
}

void KvStore::Release(const std::vector<KvPiece>& pieces) {
  for (const KvPiece& piece : pieces) Release(piece.kind, piece.block);
}

int KvStore::References(KvBlockKind kind, int block) const { return Get(kind, block).references; }

const std::byte* KvStore::KeyPage(KvBlockKind kind, int block, int layer, int head) const {
  return pool(kind).pages[Index(layer, head)].Key(block);
}

const std::byte* KvStore::ValuePage(KvBlockKind kind, int block, int layer, int head) const {
  const PageStore& pages = pool(kind).pages[Index(layer, head)];
  return pages.Key(block) + pages.value_offset;
}

std::byte* KvStore::KeyPage(KvBlockKind kind, int block, int layer, int head) {
  return const_cast<std::byte*>(std::as_const(*this).KeyPage(kind, block, layer, head));
}

std::byte* KvStore::ValuePage(KvBlockKind kind, int block, int layer, int head) {
  return const_cast<std::byte*>(std::as_const(*this).ValuePage(kind, block, layer, head));
}

std::size_t KvStore::KeyBytes(KvBlockKind kind, int layer, int head) const {
  return pool(kind).pages[Index(layer, head)].key_bytes;
}

std::size_t KvStore::ValueBytes(KvBlockKind kind, int layer, int head) const {
  return pool(kind).pages[Index(layer, head)].value_bytes;
}

int KvStore::n_blocks_in_use(KvBlockKind kind) const {
  return static_cast<int>(pool(kind).blocks.size() - pool(kind).free.size());
}

std::size_t KvStore::AllocatedBytes() const {
  std::size_t bytes = 0;
  for (const Pool& p : pools_) {
    for (const PageStore& pages : p.pages) {
      bytes += pages.slabs.size() * pages.stride * static_cast<std::size_t>(pages.pages_per_slab);
    }
  }
  return bytes;
}

KvSpan::KvSpan(std::shared_ptr<KvStore> store, std::vector<KvPiece> pieces, PositionTicks first,
               PositionTicks end)
    : store_(std::move(store)), pieces_(std::move(pieces)), first_(first), end_(end) {
  if (store_ != nullptr) store_->Retain(pieces_);
}

KvSpan::KvSpan(const KvSpan& o) : KvSpan(o.store_, o.pieces_, o.first_, o.end_) {}

KvSpan::~KvSpan() {
  if (store_ != nullptr) store_->Release(pieces_);
}

}  // namespace phasor
