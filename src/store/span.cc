#include "store/span.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/check.h"
#include "formats/printable.h"

namespace phasor {
namespace {

std::string Quoted(const std::string& text) { return "\"" + Printable(text) + "\""; }

// Compares fields one by one and keeps the first difference.
class FieldComparer {
 public:
  explicit FieldComparer(const std::string& where) : where_(where) {}
  void Check(const std::string& field, const std::string& expected, const std::string& found) {
    if (expected != found) Report(field, Quoted(expected), Quoted(found));
  }
  void Check(const std::string& field, uint64_t expected, uint64_t found) {
    if (expected != found) Report(field, std::to_string(expected), std::to_string(found));
  }
  const Status& status() const { return status_; }

 private:
  void Report(const std::string& field, const std::string& expected, const std::string& found) {
    if (!status_.ok()) return;
    status_ =
        InvalidArgument(where_ + ": " + field + ": expected " + expected + ", found " + found);
  }
  const std::string& where_;
  Status status_;
};

Status CheckString(const std::string& text, const char* field, const std::string& where) {
  const bool printable =
      std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
  if (printable && text.size() <= kMaxSpanString) return Status::Ok();
  return DataCorrupt(where + ": " + field + ": expected at most " + std::to_string(kMaxSpanString) +
                     " printable ASCII characters, found " + Quoted(text));
}

Status CheckRange(uint64_t value, uint64_t low, uint64_t high, const std::string& field,
                  const std::string& where) {
  if (value >= low && value <= high) return Status::Ok();
  return DataCorrupt(where + ": " + field + ": expected " + std::to_string(low) + " to " +
                     std::to_string(high) + ", found " + std::to_string(value));
}

Status CheckPosition(int64_t value, const std::string& field, const std::string& where) {
  if (value >= -kMaxPosition && value <= kMaxPosition) return Status::Ok();
  return DataCorrupt(where + ": " + field + ": expected at most 2^60 either way, found " +
                     std::to_string(value));
}

Status ValidateFingerprint(const SpanFingerprint& f, const std::string& where) {
  constexpr uint64_t kMaxCount = 1u << 20;
  PHASOR_RETURN_IF_ERROR(CheckRange(f.n_layers, 1, kMaxCount, "layers", where));
  PHASOR_RETURN_IF_ERROR(CheckRange(f.n_kv_heads, 1, kMaxCount, "KV heads", where));
  PHASOR_RETURN_IF_ERROR(CheckRange(f.head_dim, 1, kMaxCount, "head size", where));
  PHASOR_RETURN_IF_ERROR(CheckRange(f.n_rot, 0, f.head_dim, "rotated dimensions", where));
  PHASOR_RETURN_IF_ERROR(CheckRange(f.n_rot % 2, 0, 0, "rotated dimensions modulo 2", where));
  PHASOR_RETURN_IF_ERROR(
      CheckRange(f.page_tokens, 1, kMaxPageTokens, "tokens of a full block", where));
  PHASOR_RETURN_IF_ERROR(CheckRange(f.layers.size(), f.n_layers, f.n_layers, "codecs", where));
  const uint64_t n_heads = uint64_t{f.n_layers} * f.n_kv_heads;
  PHASOR_RETURN_IF_ERROR(CheckRange(f.head_bytes.size(), n_heads, n_heads, "page sizes", where));
  PHASOR_RETURN_IF_ERROR(CheckString(f.model_hash, "model hash", where));
  PHASOR_RETURN_IF_ERROR(CheckString(f.tokenizer_hash, "tokenizer hash", where));
  PHASOR_RETURN_IF_ERROR(CheckString(f.rope_schedule, "RoPE schedule", where));
  for (const SpanLayerCodecs& layer : f.layers) {
    PHASOR_RETURN_IF_ERROR(CheckString(layer.key_codec, "K type", where));
    PHASOR_RETURN_IF_ERROR(CheckString(layer.value_codec, "V type", where));
    PHASOR_RETURN_IF_ERROR(CheckString(layer.key_rows, "K type of rows", where));
    PHASOR_RETURN_IF_ERROR(CheckString(layer.value_rows, "V type of rows", where));
  }
  for (const SpanHeadBytes& b : f.head_bytes) {
    for (uint32_t bytes : {b.key_row, b.value_row, b.key_page, b.value_page}) {
      PHASOR_RETURN_IF_ERROR(CheckRange(bytes, 1, UINT32_MAX, "page size", where));
    }
  }
  return Status::Ok();
}

Status ValidateBlock(const SpanBlock& block, std::size_t index, uint32_t page_tokens,
                     const std::string& where) {
  const std::string field = "block " + std::to_string(index);
  PHASOR_RETURN_IF_ERROR(CheckRange(static_cast<uint32_t>(block.encoding), 0,
                                    static_cast<uint32_t>(SpanEncoding::kCodes),
                                    field + ": encoding", where));
  const bool rows = block.encoding == SpanEncoding::kRows;
  PHASOR_RETURN_IF_ERROR(
      CheckRange(block.first_row, 0, rows ? page_tokens - 1 : 0, field + ": first row", where));
  PHASOR_RETURN_IF_ERROR(CheckRange(block.positions.size(), 1, page_tokens - block.first_row,
                                    field + ": tokens", where));
  for (int64_t p : block.positions) {
    PHASOR_RETURN_IF_ERROR(CheckPosition(p, field + ": position", where));
  }
  return Status::Ok();
}

Status ValidateSchedule(const SpanSchedule& schedule, uint64_t n_pairs, const std::string& where) {
  PHASOR_RETURN_IF_ERROR(
      CheckRange(schedule.step_P.size(), n_pairs, n_pairs, "steps of a schedule", where));
  const float factor = schedule.attention_factor;
  if (std::isfinite(factor) && factor > 0) return Status::Ok();
  return DataCorrupt(where + ": attention factor: expected a number above 0, found " +
                     std::to_string(factor));
}

// Pieces lie inside their blocks, use every block, and have as many rows as there are tokens.
Status ValidatePieces(const SpanHeader& header, const std::string& where) {
  std::vector<bool> used(header.blocks.size(), false);
  uint64_t n_rows = 0;
  for (std::size_t i = 0; i < header.pieces.size(); ++i) {
    const SpanPiece& piece = header.pieces[i];
    const std::string field = "piece " + std::to_string(i);
    if (piece.block >= header.blocks.size()) {
      return DataCorrupt(where + ": " + field + ": expected a block below " +
                         std::to_string(header.blocks.size()) + ", found " +
                         std::to_string(piece.block));
    }
    const SpanBlock& block = header.blocks[piece.block];
    const uint64_t end = uint64_t{block.first_row} + block.n_tokens();
    PHASOR_RETURN_IF_ERROR(
        CheckRange(piece.first_row, block.first_row, end - 1, field + ": first row", where));
    PHASOR_RETURN_IF_ERROR(
        CheckRange(piece.n_rows, 1, end - piece.first_row, field + ": rows", where));
    PHASOR_RETURN_IF_ERROR(
        CheckRange(piece.schedule, 0, header.schedules.size() - 1, field + ": schedule", where));
    PHASOR_RETURN_IF_ERROR(CheckRange(piece.group, 0, 1, field + ": group", where));
    PHASOR_RETURN_IF_ERROR(CheckRange(piece.flags, 0, kSpanAllFlags, field + ": flags", where));
    PHASOR_RETURN_IF_ERROR(CheckPosition(piece.shift, field + ": shift", where));
    if ((piece.flags & kSpanStale) != 0 && header.left_context.known) {
      return DataCorrupt(where + ": " + field +
                         ": expected no stale text after a known left context, found some");
    }
    used[piece.block] = true;
    n_rows += piece.n_rows;
  }
  const auto unused = std::find(used.begin(), used.end(), false);
  if (unused != used.end()) {
    return DataCorrupt(where + ": block " + std::to_string(unused - used.begin()) +
                       ": expected a piece that uses it, found none");
  }
  return CheckRange(n_rows, header.tokens.size(), header.tokens.size(), "rows of all pieces",
                    where);
}

}  // namespace

Status CheckSameFingerprint(const SpanFingerprint& expected, const SpanFingerprint& found,
                            const std::string& where) {
  FieldComparer fields(where);
  fields.Check("model hash", expected.model_hash, found.model_hash);
  fields.Check("tokenizer hash", expected.tokenizer_hash, found.tokenizer_hash);
  fields.Check("layers", expected.n_layers, found.n_layers);
  fields.Check("KV heads", expected.n_kv_heads, found.n_kv_heads);
  fields.Check("head size", expected.head_dim, found.head_dim);
  fields.Check("rotated dimensions", expected.n_rot, found.n_rot);
  fields.Check("tokens of a full block", expected.page_tokens, found.page_tokens);
  fields.Check("RoPE schedule", expected.rope_schedule, found.rope_schedule);
  fields.Check("RoPE frequencies (hash)", expected.rope_hash, found.rope_hash);
  if (!fields.status().ok()) return fields.status();
  PHASOR_CHECK(expected.layers.size() == found.layers.size());
  PHASOR_CHECK(expected.head_bytes.size() == found.head_bytes.size());
  for (uint32_t i = 0; i < expected.n_layers; ++i) {
    const SpanLayerCodecs &e = expected.layers[i], &f = found.layers[i];
    const std::string layer = "layer " + std::to_string(i) + ": ";
    fields.Check(layer + "K type", e.key_codec, f.key_codec);
    fields.Check(layer + "V type", e.value_codec, f.value_codec);
    fields.Check(layer + "K type of rows", e.key_rows, f.key_rows);
    fields.Check(layer + "V type of rows", e.value_rows, f.value_rows);
    fields.Check(layer + "calibration (hash)", e.calibration_hash, f.calibration_hash);
    for (uint32_t h = 0; h < expected.n_kv_heads; ++h) {
      const SpanHeadBytes &a = expected.bytes_of(i, h), &b = found.bytes_of(i, h);
      if (a == b) continue;
      const std::string head = layer + "KV head " + std::to_string(h) + ": ";
      fields.Check(head + "bytes of a K row", a.key_row, b.key_row);
      fields.Check(head + "bytes of a V row", a.value_row, b.value_row);
      fields.Check(head + "bytes of a K page", a.key_page, b.key_page);
      fields.Check(head + "bytes of a V page", a.value_page, b.value_page);
    }
    if (!fields.status().ok()) return fields.status();
  }
  return Status::Ok();
}

SpanContext LeftContext(std::span<const int32_t> tokens) {
  Hasher128 hasher;
  hasher.AddString("phasor left context");
  hasher.AddBytes(std::as_bytes(tokens));
  return {.known = true, .n_tokens = tokens.size(), .hash = hasher.Finish()};
}

Status ValidateSpanHeader(const SpanHeader& header, const std::string& where) {
  PHASOR_RETURN_IF_ERROR(ValidateFingerprint(header.fingerprint, where));
  const SpanContext& context = header.left_context;
  if (!context.known && !(context == SpanContext{})) {
    return DataCorrupt(where + ": left context: expected nothing when it is not known, found " +
                       std::to_string(context.n_tokens) + " tokens, hash " + context.hash.Hex());
  }
  // Tokens, blocks and pieces are at least one each, and at most as many as the next of the three.
  PHASOR_RETURN_IF_ERROR(CheckRange(header.tokens.size(), 1, UINT32_MAX, "tokens", where));
  PHASOR_RETURN_IF_ERROR(
      CheckRange(header.pieces.size(), 1, header.tokens.size(), "pieces", where));
  PHASOR_RETURN_IF_ERROR(
      CheckRange(header.blocks.size(), 1, header.pieces.size(), "blocks", where));
  PHASOR_RETURN_IF_ERROR(CheckPosition(header.end_position, "end", where));
  PHASOR_RETURN_IF_ERROR(
      CheckRange(header.schedules.size(), 1, header.pieces.size(), "schedules", where));
  for (const SpanSchedule& schedule : header.schedules) {
    PHASOR_RETURN_IF_ERROR(ValidateSchedule(schedule, header.fingerprint.n_rot / 2, where));
  }
  for (std::size_t i = 0; i < header.blocks.size(); ++i) {
    PHASOR_RETURN_IF_ERROR(
        ValidateBlock(header.blocks[i], i, header.fingerprint.page_tokens, where));
  }
  PHASOR_RETURN_IF_ERROR(ValidatePieces(header, where));
  std::set<std::string> names;
  for (const SpanAttachment& a : header.attachments) {
    PHASOR_RETURN_IF_ERROR(CheckString(a.name, "name of an attachment", where));
    if (!names.insert(a.name).second) {
      return DataCorrupt(where + ": attachment " + Quoted(a.name) + ": expected one, found two");
    }
  }
  return Status::Ok();
}

std::vector<int64_t> SpanPositions(const SpanHeader& header) {
  std::vector<int64_t> positions;
  positions.reserve(header.tokens.size());
  for (const SpanPiece& piece : header.pieces) {
    const SpanBlock& block = header.blocks[piece.block];
    for (uint32_t r = 0; r < piece.n_rows; ++r) {
      positions.push_back(block.positions[piece.first_row - block.first_row + r] + piece.shift);
    }
  }
  return positions;
}

Result<std::vector<SpanPiece>> PiecesAt(const SpanHeader& header, int64_t first_position) {
  if (first_position < 0 || first_position > kMaxPosition) {
    return OutOfRange("offset: expected 0 to 2^60, found " + std::to_string(first_position));
  }
  const std::vector<int64_t> positions = SpanPositions(header);
  // |positions| <= 2^61 and first_position <= 2^60: the difference fits.
  const int64_t delta = first_position - positions.front();
  for (int64_t p : positions) {
    int64_t moved = 0;
    if (__builtin_add_overflow(p, delta, &moved) || moved < 0 || moved > kMaxPosition) {
      return OutOfRange("offset " + std::to_string(first_position) +
                        ": expected room for all tokens from position 0 to 2^60 / 65536, found one "
                        "outside");
    }
  }
  std::vector<SpanPiece> pieces = header.pieces;
  for (SpanPiece& piece : pieces) {
    // May pass the bound of a shift although every position is in range, when the block's own
    // positions lie far out.
    if (__builtin_add_overflow(piece.shift, delta, &piece.shift) || piece.shift < -kMaxPosition ||
        piece.shift > kMaxPosition) {
      return OutOfRange("offset " + std::to_string(first_position) +
                        ": expected a shift of at most 2^60, found more");
    }
  }
  return pieces;
}

uint64_t SpanPageBytes(const SpanFingerprint& fingerprint, const SpanBlock& block, uint32_t layer,
                       uint32_t head, bool key) {
  const SpanHeadBytes& bytes = fingerprint.bytes_of(layer, head);
  if (block.encoding == SpanEncoding::kCodes) return key ? bytes.key_page : bytes.value_page;
  return uint64_t{key ? bytes.key_row : bytes.value_row} * block.n_tokens();
}

Status CopySpan(const SpanSource& source, SpanSink* sink) {
  const SpanHeader& header = source.header();
  const SpanFingerprint& f = header.fingerprint;
  PHASOR_RETURN_IF_ERROR(sink->Begin(header));
  const auto copy = [](std::span<const std::byte> from, std::span<std::byte> to) {
    PHASOR_CHECK(from.size() == to.size());
    std::memcpy(to.data(), from.data(), from.size());
  };
  for (uint32_t block = 0; block < header.blocks.size(); ++block) {
    for (uint32_t layer = 0; layer < f.n_layers; ++layer) {
      for (uint32_t head = 0; head < f.n_kv_heads; ++head) {
        copy(source.KeyPage(block, layer, head), sink->KeyPage(block, layer, head));
        copy(source.ValuePage(block, layer, head), sink->ValuePage(block, layer, head));
      }
    }
  }
  return sink->Commit();
}

}  // namespace phasor
