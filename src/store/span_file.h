// Span files: a span with its pages as one file or one stretch of memory (docs/formats.md).
//
// The same bytes serve entries of the chunk store and saved sessions. Pages lie at multiples of 64
// bytes, so a mapped file can be read in place, and processes that map it share its memory.
//
// A file is refused as a whole, with the reason, unless all of it is right: length, version, the
// checksums of preamble, header and every block, and every number in the header. Nothing of a file
// is handed out before that. Files are never changed in place (AtomicFileWriter renames), so what
// was checked stays.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/file.h"
#include "phasor/status.h"
#include "store/span.h"

namespace phasor {

inline constexpr uint32_t kSpanFileVersion = 1;
inline constexpr std::size_t kSpanPreambleBytes = 64;
inline constexpr std::array<char, 8> kSpanMagic = {'P', 'H', 'S', 'P', 'A', 'N', '\r', '\n'};

// The first 64 bytes.
struct SpanPreamble {
  std::array<char, 8> magic = kSpanMagic;
  uint32_t version = kSpanFileVersion;
  uint32_t reserved = 0;
  uint64_t file_bytes = 0;    // all of the file
  uint64_t header_bytes = 0;  // a multiple of 64
  uint64_t header_hash = 0;   // XXH3 of the header section
  uint64_t unused[2] = {0, 0};
  uint64_t preamble_hash = 0;  // XXH3 of the 56 bytes before
};
static_assert(sizeof(SpanPreamble) == kSpanPreambleBytes);

// A span file in memory or mapped. Immutable; may be used from many threads.
class SpanFile final : public SpanSource {
 public:
  // Maps and checks a file. kNotFound when there is none; kUnsupported for another version, with
  // "expected version 1, found 3: written by a newer phasor"; kDataCorrupt for everything else that
  // is not as docs/formats.md says. A device that cannot be read is kUnavailable.
  static Result<std::shared_ptr<const SpanFile>> Open(const std::string& path);
  // Checks an image and keeps it. `name` stands for the path in messages.
  static Result<std::shared_ptr<const SpanFile>> FromImage(AlignedBuffer<std::byte> image,
                                                           const std::string& name);

  const SpanHeader& header() const override { return header_; }
  std::span<const std::byte> KeyPage(uint32_t block, uint32_t layer, uint32_t head) const override;
  std::span<const std::byte> ValuePage(uint32_t block, uint32_t layer,
                                       uint32_t head) const override;
  std::size_t size_bytes() const { return bytes_.size(); }
  const std::string& name() const { return name_; }
  // kInvalidArgument names the first field that differs from what the reader can use.
  Status CheckFits(const SpanFingerprint& expected) const {
    return CheckSameFingerprint(expected, header_.fingerprint, name_);
  }
  // Checks all bytes again, as Open did.
  Status Recheck() const;

 private:
  SpanFile() = default;
  Status Adopt(std::span<const std::byte> bytes, const std::string& name);
  void FindPages();
  std::span<const std::byte> Page(uint32_t block, uint32_t layer, uint32_t head, bool key) const;

  MappedFile file_;
  AlignedBuffer<std::byte> image_;
  std::span<const std::byte> bytes_;
  std::string name_;
  SpanHeader header_;
  std::vector<uint64_t> block_offset_;  // [n blocks]
  // Blocks of one encoding and length have one shape: where their pages lie within them, K and V of
  // every (layer, head) in turn [n shapes][n_layers * n_kv_heads * 2].
  std::vector<std::vector<uint64_t>> page_offset_;
  std::vector<uint32_t> shape_of_block_;  // [n blocks]
};

// Bytes of the file that holds a span. The header must be valid.
uint64_t SpanFileBytes(const SpanHeader& header);

// Writes the span to `path`, whole or not at all (AtomicFileWriter). kResourceExhausted when the
// disk is full; the file that was there is kept.
Status WriteSpanFile(const std::string& path, const SpanSource& source);
// The same bytes in memory.
Result<AlignedBuffer<std::byte>> SpanImage(const SpanSource& source);

// Preamble and header alone, checked as far as that goes; the blocks may still be damaged. For
// lists, and for whoever must know where blocks lie before trusting them.
struct SpanFileInfo {
  SpanHeader header;
  std::vector<uint64_t> block_hashes;   // [n blocks]
  std::vector<uint64_t> block_offsets;  // [n blocks + 1], ends with the length of the file
};
Result<SpanFileInfo> ReadSpanFileInfo(std::span<const std::byte> bytes, const std::string& name);
Result<SpanFileInfo> ReadSpanFileInfo(const std::string& path);

}  // namespace phasor
