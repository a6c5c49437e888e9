#include "store/span_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "base/aligned.h"
#include "base/check.h"

namespace phasor {
namespace {

static_assert(std::endian::native == std::endian::little,
              "fields are stored as they lie in memory");

class FieldWriter {
 public:
  explicit FieldWriter(std::vector<std::byte>* out) : out_(out) {}
  void Raw(const void* data, std::size_t size) {
    const auto* p = static_cast<const std::byte*>(data);
    out_->insert(out_->end(), p, p + size);
  }
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    Raw(&value, sizeof(value));
  }
  void String(const std::string& text) {
    Number(static_cast<uint32_t>(text.size()));
    Raw(text.data(), text.size());
  }
  template <typename T>
  void Numbers(const std::vector<T>& values) {
    Raw(values.data(), values.size() * sizeof(T));
  }

 private:
  std::vector<std::byte>* out_;
};

// Reads fields in order; after the first error everything reads as zero or empty.
class FieldReader {
 public:
  FieldReader(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  template <typename T>
  T Number(const char* field) {
    T value = 0;
    if (Need(1, sizeof(T), field)) Take(&value, sizeof(T));
    return value;
  }
  std::string String(const char* field) {
    const auto size = Number<uint32_t>(field);
    std::string text;
    if (Need(size, 1, field)) {
      text.assign(reinterpret_cast<const char*>(bytes_.data()), size);
      bytes_ = bytes_.subspan(size);
    }
    return text;
  }
  template <typename T>
  std::vector<T> Numbers(uint64_t n, const char* field) {
    std::vector<T> values;
    if (Need(n, sizeof(T), field)) {
      values.resize(n);
      Take(values.data(), n * sizeof(T));
    }
    return values;
  }
  // A count of things that take at least min_bytes each: never more than could follow.
  uint64_t Count(uint64_t min_bytes, const char* field) {
    const auto n = Number<uint64_t>(field);
    return Need(n, min_bytes, field) ? n : 0;
  }
  bool Need(uint64_t n, uint64_t bytes_each, const char* field) {
    if (!status_.ok()) return false;
    if (n <= bytes_.size() / bytes_each) return true;
    Fail(std::string(field) + ": expected " + std::to_string(n) + " times at least " +
         std::to_string(bytes_each) + " bytes, found " + std::to_string(bytes_.size()) + " left");
    return false;
  }
  void Fail(const std::string& message) {
    if (status_.ok()) status_ = DataCorrupt(where_ + ": header: " + message);
  }
  const Status& status() const { return status_; }
  std::span<const std::byte> rest() const { return bytes_; }

 private:
  void Take(void* to, std::size_t size) {
    if (size != 0) std::memcpy(to, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
  }
  std::span<const std::byte> bytes_;
  const std::string& where_;
  Status status_;
};

SpanFingerprint ReadFingerprint(FieldReader& in) {
  SpanFingerprint f;
  f.model_hash = in.String("model hash");
  f.tokenizer_hash = in.String("tokenizer hash");
  f.n_layers = in.Number<uint32_t>("layers");
  f.n_kv_heads = in.Number<uint32_t>("KV heads");
  f.head_dim = in.Number<uint32_t>("head size");
  f.n_rot = in.Number<uint32_t>("rotated dimensions");
  f.page_tokens = in.Number<uint32_t>("tokens of a full block");
  f.rope_schedule = in.String("RoPE schedule");
  f.rope_hash = in.Number<uint64_t>("RoPE frequencies (hash)");
  constexpr uint64_t kMinLayerBytes = 4 * 4 + 8;
  if (in.Need(f.n_layers, kMinLayerBytes, "codecs")) f.layers.resize(f.n_layers);
  for (SpanLayerCodecs& layer : f.layers) {
    layer.key_codec = in.String("K type");
    layer.value_codec = in.String("V type");
    layer.key_rows = in.String("K type of rows");
    layer.value_rows = in.String("V type of rows");
    layer.calibration_hash = in.Number<uint64_t>("calibration (hash)");
  }
  const auto sizes = in.Numbers<uint32_t>(uint64_t{f.n_layers} * f.n_kv_heads <= UINT64_MAX / 4
                                              ? uint64_t{f.n_layers} * f.n_kv_heads * 4
                                              : UINT64_MAX,
                                          "page sizes");
  f.head_bytes.resize(sizes.size() / 4);
  for (std::size_t i = 0; i < f.head_bytes.size(); ++i) {
    f.head_bytes[i] = {sizes[4 * i], sizes[4 * i + 1], sizes[4 * i + 2], sizes[4 * i + 3]};
  }
  return f;
}

}  // namespace

void AppendFingerprint(const SpanFingerprint& f, std::vector<std::byte>* out) {
  FieldWriter w(out);
  w.String(f.model_hash);
  w.String(f.tokenizer_hash);
  for (uint32_t n : {f.n_layers, f.n_kv_heads, f.head_dim, f.n_rot, f.page_tokens}) w.Number(n);
  w.String(f.rope_schedule);
  w.Number(f.rope_hash);
  for (const SpanLayerCodecs& layer : f.layers) {
    w.String(layer.key_codec);
    w.String(layer.value_codec);
    w.String(layer.key_rows);
    w.String(layer.value_rows);
    w.Number(layer.calibration_hash);
  }
  for (const SpanHeadBytes& b : f.head_bytes) {
    for (uint32_t n : {b.key_row, b.value_row, b.key_page, b.value_page}) w.Number(n);
  }
}

std::vector<std::byte> EncodeSpanHeader(const SpanHeader& header,
                                        std::span<const uint64_t> block_hashes) {
  PHASOR_CHECK(block_hashes.size() == header.blocks.size());
  std::vector<std::byte> out;
  FieldWriter w(&out);
  // Block hashes stand first so that their place depends on their number alone.
  w.Number(uint64_t{block_hashes.size()});
  w.Raw(block_hashes.data(), block_hashes.size_bytes());
  AppendFingerprint(header.fingerprint, &out);
  w.Number(uint32_t{header.left_context.known});
  w.Number(header.left_context.n_tokens);
  w.Raw(header.left_context.hash.bytes.data(), header.left_context.hash.bytes.size());
  w.Number(uint64_t{header.tokens.size()});
  w.Numbers(header.tokens);
  w.Number(header.end_position);
  w.Number(uint64_t{header.schedules.size()});
  for (const SpanSchedule& schedule : header.schedules) {
    w.Number(schedule.attention_factor);
    w.Numbers(schedule.step_P);
  }
  for (const SpanBlock& block : header.blocks) {
    w.Number(static_cast<uint32_t>(block.encoding));
    w.Number(block.first_row);
    w.Number(block.n_tokens());
    w.Numbers(block.positions);
  }
  w.Number(uint64_t{header.pieces.size()});
  for (const SpanPiece& piece : header.pieces) {
    for (uint32_t n :
         {piece.block, piece.first_row, piece.n_rows, piece.schedule, piece.group, piece.flags}) {
      w.Number(n);
    }
    w.Number(piece.shift);
  }
  w.Number(uint64_t{header.attachments.size()});
  for (const SpanAttachment& a : header.attachments) {
    w.String(a.name);
    w.Number(uint64_t{a.bytes.size()});
    w.Raw(a.bytes.data(), a.bytes.size());
  }
  out.resize((out.size() + kAlignment - 1) / kAlignment * kAlignment);
  return out;
}

Result<DecodedSpanHeader> DecodeSpanHeader(std::span<const std::byte> bytes,
                                           const std::string& where) {
  constexpr uint64_t kMinBlockBytes = 8 + 4 + 4 + 4 + 8, kPieceBytes = 32, kMinAttachmentBytes = 12;
  FieldReader in(bytes, where);
  DecodedSpanHeader out;
  SpanHeader& h = out.header;
  const uint64_t n_blocks = in.Count(kMinBlockBytes, "blocks");
  out.block_hashes = in.Numbers<uint64_t>(n_blocks, "block hashes");
  h.fingerprint = ReadFingerprint(in);
  const auto known = in.Number<uint32_t>("left context");
  if (known > 1) in.Fail("left context: expected 0 or 1, found " + std::to_string(known));
  h.left_context.known = known == 1;
  h.left_context.n_tokens = in.Number<uint64_t>("left context: tokens");
  for (uint8_t& b : h.left_context.hash.bytes) b = in.Number<uint8_t>("left context: hash");
  h.tokens = in.Numbers<int32_t>(in.Count(sizeof(int32_t), "tokens"), "tokens");
  h.end_position = in.Number<int64_t>("end");
  h.schedules.resize(in.Count(sizeof(float) + uint64_t{h.fingerprint.n_rot / 2} * 8, "schedules"));
  for (SpanSchedule& schedule : h.schedules) {
    schedule.attention_factor = in.Number<float>("attention factor");
    schedule.step_P = in.Numbers<uint64_t>(h.fingerprint.n_rot / 2, "steps of a schedule");
  }
  if (in.status().ok()) h.blocks.resize(n_blocks);
  for (SpanBlock& block : h.blocks) {
    block.encoding = static_cast<SpanEncoding>(in.Number<uint32_t>("encoding"));
    block.first_row = in.Number<uint32_t>("first row of a block");
    block.positions = in.Numbers<int64_t>(in.Number<uint32_t>("tokens of a block"), "positions");
  }
  h.pieces.resize(in.Count(kPieceBytes, "pieces"));
  for (SpanPiece& piece : h.pieces) {
    piece.block = in.Number<uint32_t>("piece");
    piece.first_row = in.Number<uint32_t>("piece");
    piece.n_rows = in.Number<uint32_t>("piece");
    piece.schedule = in.Number<uint32_t>("piece");
    piece.group = in.Number<uint32_t>("piece");
    piece.flags = in.Number<uint32_t>("piece");
    piece.shift = in.Number<int64_t>("piece");
  }
  h.attachments.resize(in.Count(kMinAttachmentBytes, "attachments"));
  for (SpanAttachment& a : h.attachments) {
    a.name = in.String("name of an attachment");
    const uint64_t size = in.Count(1, "attachment");
    if (in.Need(size, 1, "attachment")) {
      const auto data = in.Numbers<char>(size, "attachment");
      a.bytes.assign(data.begin(), data.end());
    }
  }
  if (!in.status().ok()) return in.status();
  const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
  if (in.rest().size() >= kAlignment || !std::all_of(in.rest().begin(), in.rest().end(), is_zero)) {
    return DataCorrupt(where + ": header: expected zeros up to a multiple of " +
                       std::to_string(kAlignment) + " bytes after the last field, found " +
                       std::to_string(in.rest().size()) + " other bytes");
  }
  PHASOR_RETURN_IF_ERROR(ValidateSpanHeader(h, where));
  return out;
}

}  // namespace phasor
