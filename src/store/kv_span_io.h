// Between the cache and the store: spans of a KvStore as a SpanSource, and a SpanSink that makes
// one.
//
// Of row blocks only the rows from the first to the last that a piece uses are stored; pages of
// codes go whole. What comes back is the same bits in blocks of its own, at the same positions,
// seen by the same schedules.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cache/kv_store.h"
#include "phasor/status.h"
#include "store/span.h"

namespace phasor {

// The part of a fingerprint that a store knows: counts, sizes, bytes per row and page. The rest
// (hashes, ids, schedule) is the engine's; `layers` has n_layers empty entries.
SpanFingerprint StoreFingerprint(const KvStore& store);

enum class SpanMarks {
  kDrop,  // chunks: pins and attention groups belong to the sequence the span was taken from
  kKeep,  // sessions
};

struct KvSpanSourceOptions {
  SpanFingerprint fingerprint;  // complete, of the span's store
  SpanContext left_context;     // taken for not known when a piece is stale
  SpanMarks marks = SpanMarks::kDrop;
  std::vector<SpanAttachment> attachments;
};

// Holds the blocks of the span, so that the sequence may change while it is written.
class KvSpanSource final : public SpanSource {
 public:
  // tokens: one per row. The span is not empty.
  KvSpanSource(KvSpan span, std::span<const int32_t> tokens, KvSpanSourceOptions options);

  const SpanHeader& header() const override { return header_; }
  std::span<const std::byte> KeyPage(uint32_t block, uint32_t layer, uint32_t head) const override;
  std::span<const std::byte> ValuePage(uint32_t block, uint32_t layer,
                                       uint32_t head) const override;

 private:
  // A block of the store, and its rows [first_row, end_row) that are stored.
  struct Block {
    KvBlockKind kind;
    int block, first_row, end_row;
  };
  std::vector<Block> CollectBlocks(std::map<std::pair<KvBlockKind, int>, uint32_t>* index) const;

  KvSpan span_;
  SpanHeader header_;
  std::vector<Block> blocks_;  // [n blocks]
};

// Restores into a store. Blocks that were taken go back unless Commit makes a span of them.
class KvSpanSink final : public SpanSink {
 public:
  // fingerprint: complete, what a span must have to be of use here.
  KvSpanSink(std::shared_ptr<KvStore> store, SpanFingerprint fingerprint);
  ~KvSpanSink() override;
  KvSpanSink(const KvSpanSink&) = delete;
  KvSpanSink& operator=(const KvSpanSink&) = delete;

  // kInvalidArgument names the first field of the fingerprint that differs.
  Status Begin(const SpanHeader& header) override;
  std::span<std::byte> KeyPage(uint32_t block, uint32_t layer, uint32_t head) override;
  std::span<std::byte> ValuePage(uint32_t block, uint32_t layer, uint32_t head) override;
  Status Commit() override;
  // Empty before Commit.
  const KvSpan& span() const { return span_; }

 private:
  struct Block {
    KvBlockKind kind;
    int block;
  };
  void GiveBack();

  std::shared_ptr<KvStore> store_;
  SpanFingerprint fingerprint_;
  SpanHeader header_;
  std::vector<Block> blocks_;
  KvSpan span_;
};

// A span of the store with the pages of `source`. An error leaves the store as it was.
Result<KvSpan> RestoreSpan(const SpanSource& source, const std::shared_ptr<KvStore>& store,
                           const SpanFingerprint& fingerprint);

}  // namespace phasor
