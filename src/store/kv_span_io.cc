#include "store/kv_span_io.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace phasor {
namespace {

static_assert(kTicksPerPosition == kPositionOne, "the cache and span files count positions alike");

constexpr uint32_t kFullRow = kPageTokens;

KvBlockKind KindOf(SpanEncoding encoding) {
  return encoding == SpanEncoding::kRows ? KvBlockKind::kRows : KvBlockKind::kCodes;
}

// Row codecs store row after row (RowKvCodec::EncodeRows), so a run of rows is a run of bytes.
std::size_t RowBytes(std::size_t page_bytes) {
  PHASOR_CHECK(page_bytes % kFullRow == 0);
  return page_bytes / kFullRow;
}

// The stored rows of a block's page, or all of its codes.
template <typename Byte>
std::span<Byte> StoredPart(Byte* page, const SpanHeader& header, uint32_t block, uint32_t layer,
                           uint32_t head, bool key) {
  const SpanBlock& b = header.blocks[block];
  const SpanHeadBytes& bytes = header.fingerprint.bytes_of(layer, head);
  const std::size_t row_bytes = key ? bytes.key_row : bytes.value_row;
  return {page + row_bytes * b.first_row, SpanPageBytes(header.fingerprint, b, layer, head, key)};
}

uint32_t FlagsOf(const KvPiece& piece, SpanMarks marks) {
  uint32_t flags = 0;
  if (piece.sink) flags |= kSpanSink;
  if (piece.stale) flags |= kSpanStale;
  if (piece.pinned && marks == SpanMarks::kKeep) flags |= kSpanPinned;
  return flags;
}

}  // namespace

SpanFingerprint StoreFingerprint(const KvStore& store) {
  const KvStoreOptions& o = store.options();
  SpanFingerprint f;
  f.n_layers = static_cast<uint32_t>(o.n_layers);
  f.n_kv_heads = static_cast<uint32_t>(o.n_kv_heads);
  f.head_dim = static_cast<uint32_t>(o.head_dim);
  f.n_rot = static_cast<uint32_t>(o.n_rot);
  f.page_tokens = kPageTokens;
  f.layers.resize(f.n_layers);
  for (int layer = 0; layer < o.n_layers; ++layer) {
    for (int head = 0; head < o.n_kv_heads; ++head) {
      const auto bytes = [](std::size_t n) {
        PHASOR_CHECK(n >= 1 && n <= std::numeric_limits<uint32_t>::max());
        return static_cast<uint32_t>(n);
      };
      f.head_bytes.push_back(
          {.key_row = bytes(RowBytes(store.KeyBytes(KvBlockKind::kRows, layer, head))),
           .value_row = bytes(RowBytes(store.ValueBytes(KvBlockKind::kRows, layer, head))),
           .key_page = bytes(store.KeyBytes(KvBlockKind::kCodes, layer, head)),
           .value_page = bytes(store.ValueBytes(KvBlockKind::kCodes, layer, head))});
    }
  }
  return f;
}

std::vector<KvSpanSource::Block> KvSpanSource::CollectBlocks(
    std::map<std::pair<KvBlockKind, int>, uint32_t>* index) const {
  const KvStore& store = *span_.store();
  std::vector<Block> blocks;
  for (const KvPiece& piece : span_.pieces()) {
    const int end = piece.first_row + piece.n_rows;
    const auto [it, fresh] =
        index->try_emplace({piece.kind, piece.block}, static_cast<uint32_t>(blocks.size()));
    if (fresh) blocks.push_back({piece.kind, piece.block, piece.first_row, end});
    Block& block = blocks[it->second];
    block.first_row = std::min(block.first_row, piece.first_row);
    block.end_row = std::max(block.end_row, end);
    if (piece.kind == KvBlockKind::kCodes) {
      block.first_row = 0;
      block.end_row = store.n_filled(piece.kind, piece.block);
    }
  }
  return blocks;
}

KvSpanSource::KvSpanSource(KvSpan span, std::span<const int32_t> tokens,
                           KvSpanSourceOptions options)
    : span_(std::move(span)) {
  PHASOR_CHECK(!span_.empty() && span_.n_tokens() == static_cast<int64_t>(tokens.size()));
  const KvStore& store = *span_.store();
  header_.fingerprint = std::move(options.fingerprint);
  header_.left_context = options.left_context;
  header_.tokens.assign(tokens.begin(), tokens.end());
  header_.end_position = span_.end_position();
  header_.attachments = std::move(options.attachments);
  std::map<std::pair<KvBlockKind, int>, uint32_t> block_index;
  blocks_ = CollectBlocks(&block_index);
  for (const Block& b : blocks_) {
    const PositionTicks* at = store.positions(b.kind, b.block);
    header_.blocks.push_back(
        {.encoding = b.kind == KvBlockKind::kRows ? SpanEncoding::kRows : SpanEncoding::kCodes,
         .first_row = static_cast<uint32_t>(b.first_row),
         .positions = {at + b.first_row, at + b.end_row}});
  }
  std::map<int, uint32_t> schedule_index;
  for (const KvPiece& piece : span_.pieces()) {
    const auto [schedule, fresh] = schedule_index.try_emplace(
        piece.view.schedule, static_cast<uint32_t>(header_.schedules.size()));
    if (fresh) {
      const PhaseTable& table = store.schedule(piece.view.schedule);
      header_.schedules.push_back({table.attention_factor, table.step_P});
    }
    if (piece.stale) header_.left_context = {};
    const uint32_t block = block_index.at({piece.kind, piece.block});
    const bool keep = options.marks == SpanMarks::kKeep;
    header_.pieces.push_back({.block = block,
                              .first_row = static_cast<uint32_t>(piece.first_row),
                              .n_rows = static_cast<uint32_t>(piece.n_rows),
                              .schedule = schedule->second,
                              .group = keep ? static_cast<uint32_t>(piece.view.group) : 0,
                              .flags = FlagsOf(piece, options.marks),
                              .shift = piece.view.shift});
  }
}

std::span<const std::byte> KvSpanSource::KeyPage(uint32_t block, uint32_t layer,
                                                 uint32_t head) const {
  const Block& b = blocks_[block];
  const std::byte* page =
      std::as_const(*span_.store())
          .KeyPage(b.kind, b.block, static_cast<int>(layer), static_cast<int>(head));
  return StoredPart(page, header_, block, layer, head, true);
}

std::span<const std::byte> KvSpanSource::ValuePage(uint32_t block, uint32_t layer,
                                                   uint32_t head) const {
  const Block& b = blocks_[block];
  const std::byte* page =
      std::as_const(*span_.store())
          .ValuePage(b.kind, b.block, static_cast<int>(layer), static_cast<int>(head));
  return StoredPart(page, header_, block, layer, head, false);
}

KvSpanSink::KvSpanSink(std::shared_ptr<KvStore> store, SpanFingerprint fingerprint)
    : store_(std::move(store)), fingerprint_(std::move(fingerprint)) {}

KvSpanSink::~KvSpanSink() { GiveBack(); }

void KvSpanSink::GiveBack() {
  for (const Block& b : blocks_) store_->Release(b.kind, b.block);
  blocks_.clear();
}

Status KvSpanSink::Begin(const SpanHeader& header) {
  PHASOR_RETURN_IF_ERROR(CheckSameFingerprint(fingerprint_, header.fingerprint, "cache"));
  PHASOR_CHECK(blocks_.empty());
  header_ = header;
  for (const SpanBlock& block : header_.blocks) {
    const KvBlockKind kind = KindOf(block.encoding);
    Result<int> taken = store_->Take(kind);
    if (!taken.ok()) {
      GiveBack();
      return taken.status();
    }
    blocks_.push_back({kind, *taken});
    std::copy(block.positions.begin(), block.positions.end(),
              store_->positions(kind, *taken) + block.first_row);
    store_->SetFilled(kind, *taken, static_cast<int>(block.first_row + block.n_tokens()));
  }
  return Status::Ok();
}

std::span<std::byte> KvSpanSink::KeyPage(uint32_t block, uint32_t layer, uint32_t head) {
  const Block& b = blocks_[block];
  return StoredPart(
      store_->KeyPage(b.kind, b.block, static_cast<int>(layer), static_cast<int>(head)), header_,
      block, layer, head, true);
}

std::span<std::byte> KvSpanSink::ValuePage(uint32_t block, uint32_t layer, uint32_t head) {
  const Block& b = blocks_[block];
  return StoredPart(
      store_->ValuePage(b.kind, b.block, static_cast<int>(layer), static_cast<int>(head)), header_,
      block, layer, head, false);
}

Status KvSpanSink::Commit() {
  std::vector<int> schedules;
  for (const SpanSchedule& s : header_.schedules) {
    schedules.push_back(
        store_->AddSchedule({.step_P = s.step_P, .attention_factor = s.attention_factor}));
  }
  std::vector<KvPiece> pieces;
  for (const SpanPiece& p : header_.pieces) {
    KvPiece& piece = pieces.emplace_back();
    piece.kind = blocks_[p.block].kind;
    piece.block = blocks_[p.block].block;
    piece.first_row = static_cast<int>(p.first_row);
    piece.n_rows = static_cast<int>(p.n_rows);
    piece.view = {
        .shift = p.shift, .schedule = schedules[p.schedule], .group = static_cast<int>(p.group)};
    piece.sink = (p.flags & kSpanSink) != 0;
    piece.pinned = (p.flags & kSpanPinned) != 0;
    piece.stale = (p.flags & kSpanStale) != 0;
  }
  const PositionTicks first = SpanPositions(header_).front();
  span_ = KvSpan(store_, std::move(pieces), first, header_.end_position);
  GiveBack();  // the span has references of its own
  return Status::Ok();
}

Result<KvSpan> RestoreSpan(const SpanSource& source, const std::shared_ptr<KvStore>& store,
                           const SpanFingerprint& fingerprint) {
  KvSpanSink sink(store, fingerprint);
  PHASOR_RETURN_IF_ERROR(CopySpan(source, &sink));
  return sink.span();
}

}  // namespace phasor
