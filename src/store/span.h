// A span outside the cache: what it is, and where its pages come from and go to.
//
// A *span* is a stretch of tokens with the keys and values that a model computed for them. It is a
// list of *pieces*, and a piece is some consecutive rows of a *block* with a shift of position; a
// block is up to page_tokens tokens, over all layers and KV heads, in one encoding. Blocks carry
// the positions that their keys were rotated for, pieces say by how much these have moved since:
// moving text changes shifts and never a page.
//
// Positions and shifts are 64-bit integers in units of 1/65536 of a position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "phasor/status.h"
#include "store/hash.h"

namespace phasor {

inline constexpr int64_t kPositionOne = 65536;  // one position
// Bound of |position| and |shift|, so that no sum of two and no difference of two sums can
// overflow.
inline constexpr int64_t kMaxPosition = int64_t{1} << 60;

enum class SpanEncoding : uint32_t {
  kRows = 0,   // one row per token, in the row codec; only the rows in use are stored
  kCodes = 1,  // a page of the layer's codec
};

// Bytes of one KV head of one layer.
struct SpanHeadBytes {
  uint32_t key_row = 0, value_row = 0;    // per token, kRows
  uint32_t key_page = 0, value_page = 0;  // per block, kCodes
  bool operator==(const SpanHeadBytes&) const = default;
};

struct SpanLayerCodecs {
  std::string key_codec, value_codec;  // ids, of pages
  std::string key_rows, value_rows;    // ids, of rows
  uint64_t calibration_hash = 0;       // of the widths of this layer; 0: none
  bool operator==(const SpanLayerCodecs&) const = default;
};

// Everything that must be equal for stored pages to mean the same numbers. Strings are ASCII
// without control codes, at most kMaxSpanString bytes.
struct SpanFingerprint {
  std::string model_hash;
  std::string tokenizer_hash;
  uint32_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
  uint32_t n_rot = 0;                   // dimensions of a head that RoPE turns, even
  uint32_t page_tokens = 0;             // tokens of a full block
  std::string rope_schedule;            // method and numbers, for people
  uint64_t rope_hash = 0;               // of the phase table, the pairing and the attention factor
  std::vector<SpanLayerCodecs> layers;  // [n_layers]
  std::vector<SpanHeadBytes> head_bytes;  // [n_layers, n_kv_heads]

  const SpanHeadBytes& bytes_of(uint32_t layer, uint32_t head) const {
    return head_bytes[static_cast<std::size_t>(layer) * n_kv_heads + head];
  }
  bool operator==(const SpanFingerprint&) const = default;
};

inline constexpr std::size_t kMaxSpanString = 1024;
inline constexpr uint32_t kMaxPageTokens = 4096;

// kInvalidArgument that names the first field in which `found` differs:
// "<where>: tokenizer hash: expected ..., found ...".
Status CheckSameFingerprint(const SpanFingerprint& expected, const SpanFingerprint& found,
                            const std::string& where);

// Stored are rows [first_row, first_row + n_tokens()) of the block. Of row blocks that may be any
// part; they are restored to the same rows, because where a row lies decides in which order sums
// are rounded. Codes are stored from row 0 on.
struct SpanBlock {
  SpanEncoding encoding = SpanEncoding::kRows;
  uint32_t first_row = 0;
  std::vector<int64_t> positions;  // one per token; at least 1
  uint32_t n_tokens() const { return static_cast<uint32_t>(positions.size()); }
  bool operator==(const SpanBlock&) const = default;
};

// How keys were turned: the numbers of a phase table (contracts/position_method.h). A span may mix
// schedules when that of its session changed on the way.
struct SpanSchedule {
  float attention_factor = 1.0f;  // finite, above 0
  std::vector<uint64_t> step_P;   // turns * 2^64 per position [n_rot / 2]
  bool operator==(const SpanSchedule&) const = default;
};

enum SpanPieceFlags : uint32_t {
  kSpanSink = 1,    // first tokens of a text, which stay rows
  kSpanPinned = 2,  // protected from edits in the sequence it comes from
  kSpanStale = 4,   // encoded after another left context than the one it has in this span
  kSpanAllFlags = 7,
};

struct SpanPiece {
  uint32_t block = 0;      // index into SpanHeader::blocks
  uint32_t first_row = 0;  // of the block; all of its rows are stored ones
  uint32_t n_rows = 0;     // at least 1
  uint32_t schedule = 0;   // index into SpanHeader::schedules
  uint32_t group = 0;      // attention group, 0 or 1
  uint32_t flags = 0;      // SpanPieceFlags
  int64_t shift = 0;       // added to the positions of the block
  bool operator==(const SpanPiece&) const = default;
};

// What the model had read before the span. Keys and values above the first layer depend on it, so
// it decides whether a stored span is exact.
struct SpanContext {
  // False: the span was edited (a piece is stale), or nobody kept track; it is never exact.
  bool known = false;
  uint64_t n_tokens = 0;  // of the context; 0 when not known
  Hash128 hash;           // zero when not known
  bool operator==(const SpanContext&) const = default;
};

// Of a text at consecutive positions that ends right before the span. `tokens` may be empty.
SpanContext LeftContext(std::span<const int32_t> tokens);

// Bytes of the owner of the file that phasor's cache knows nothing of, such as a session's logits.
struct SpanAttachment {
  std::string name;  // like the strings of a fingerprint; unique within the file
  std::string bytes;
  bool operator==(const SpanAttachment&) const = default;
};

struct SpanHeader {
  SpanFingerprint fingerprint;
  SpanContext left_context;
  std::vector<int32_t> tokens;          // one per row of the pieces, in order
  int64_t end_position = 0;             // behind the last token, where the text after it goes on
  std::vector<SpanSchedule> schedules;  // at least 1
  std::vector<SpanBlock> blocks;        // each used by a piece
  std::vector<SpanPiece> pieces;
  std::vector<SpanAttachment> attachments;
  bool operator==(const SpanHeader&) const = default;
};

// The header's own consistency: counts, ranges, strings. kDataCorrupt names the field at fault.
Status ValidateSpanHeader(const SpanHeader& header, const std::string& where);

// Position of every token of the span, shifts included [n tokens].
std::vector<int64_t> SpanPositions(const SpanHeader& header);

// The pieces with shifts such that the first token stands at `first_position`. kOutOfRange when a
// token would come to stand below 0 or above kMaxPosition.
Result<std::vector<SpanPiece>> PiecesAt(const SpanHeader& header, int64_t first_position);

// Bytes that one block keeps of one head, key or value.
uint64_t SpanPageBytes(const SpanFingerprint& fingerprint, const SpanBlock& block, uint32_t layer,
                       uint32_t head, bool key);

// Where the pages of a span are read from: a cache or a file. Pages have SpanPageBytes bytes and
// stay valid as long as the source.
class SpanSource {
 public:
  virtual ~SpanSource() = default;
  virtual const SpanHeader& header() const = 0;
  virtual std::span<const std::byte> KeyPage(uint32_t block, uint32_t layer,
                                             uint32_t head) const = 0;
  virtual std::span<const std::byte> ValuePage(uint32_t block, uint32_t layer,
                                               uint32_t head) const = 0;
};

// Where the pages of a span are written to. Nothing becomes visible before Commit: a sink that is
// destroyed without it leaves its cache as it was.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  // Makes room for the blocks of the header; kResourceExhausted when there is none.
  virtual Status Begin(const SpanHeader& header) = 0;
  // SpanPageBytes bytes each, all of them written between Begin and Commit.
  virtual std::span<std::byte> KeyPage(uint32_t block, uint32_t layer, uint32_t head) = 0;
  virtual std::span<std::byte> ValuePage(uint32_t block, uint32_t layer, uint32_t head) = 0;
  virtual Status Commit() = 0;
};

// Begin, all pages, Commit; the first error ends it.
Status CopySpan(const SpanSource& source, SpanSink* sink);

}  // namespace phasor
