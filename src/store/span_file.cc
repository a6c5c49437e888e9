#include "store/span_file.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include "base/check.h"
#include "store/hash.h"
#include "store/span_header.h"

namespace phasor {
namespace {

static_assert(std::endian::native == std::endian::little,
              "fields are stored as they lie in memory");
constexpr std::size_t kHashedPreambleBytes = offsetof(SpanPreamble, preamble_hash);

uint64_t AlignUp(uint64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

// Blocks for which this is equal have pages of equal sizes.
std::pair<SpanEncoding, uint32_t> ShapeOf(const SpanBlock& block) {
  return {block.encoding, block.encoding == SpanEncoding::kRows ? block.n_tokens() : 0};
}

// Bytes of one block with every page filled up to a multiple of 64. UINT64_MAX on overflow.
uint64_t BlockBytes(const SpanFingerprint& f, const SpanBlock& block) {
  uint64_t sum = 0;
  for (uint32_t layer = 0; layer < f.n_layers; ++layer) {
    for (uint32_t head = 0; head < f.n_kv_heads; ++head) {
      // A page is at most 2^32 * kMaxPageTokens = 2^44 bytes: two of them cannot overflow.
      const uint64_t pages = AlignUp(SpanPageBytes(f, block, layer, head, true)) +
                             AlignUp(SpanPageBytes(f, block, layer, head, false));
      if (__builtin_add_overflow(sum, pages, &sum)) return UINT64_MAX;
    }
  }
  return sum;
}

// Offsets of all blocks and the length of the file [n blocks + 1]. kDataCorrupt when that is more
// than limit_bytes.
Result<std::vector<uint64_t>> BlockOffsets(const SpanHeader& header, uint64_t header_bytes,
                                           uint64_t limit_bytes, const std::string& name) {
  const SpanFingerprint& f = header.fingerprint;
  std::vector<uint64_t> offsets = {kSpanPreambleBytes + header_bytes};
  offsets.reserve(header.blocks.size() + 1);
  // Blocks of one encoding and length have one size: a header must not cost
  // blocks times heads steps when the bytes for that are not there.
  std::map<std::pair<SpanEncoding, uint32_t>, uint64_t> sizes;
  for (const SpanBlock& block : header.blocks) {
    const auto [it, fresh] = sizes.try_emplace(ShapeOf(block), 0);
    if (fresh) it->second = BlockBytes(f, block);
    uint64_t end = 0;
    if (__builtin_add_overflow(offsets.back(), it->second, &end) || end > limit_bytes) {
      return DataCorrupt(name + ": blocks: expected " + std::to_string(limit_bytes) +
                         " bytes in all, found a header that asks for more");
    }
    offsets.push_back(end);
  }
  return offsets;
}

Result<SpanPreamble> ReadPreamble(std::span<const std::byte> bytes, const std::string& name) {
  SpanPreamble p;
  if (bytes.size() < kSpanMagic.size() ||
      std::memcmp(bytes.data(), kSpanMagic.data(), kSpanMagic.size()) != 0) {
    return DataCorrupt(name +
                       ": expected a span file that begins with PHSPAN, found something else");
  }
  constexpr std::size_t kVersionEnd = offsetof(SpanPreamble, version) + sizeof(p.version);
  if (bytes.size() >= kVersionEnd) {
    std::memcpy(&p.version, bytes.data() + offsetof(SpanPreamble, version), sizeof(p.version));
    if (p.version != kSpanFileVersion) {
      return Unsupported(name + ": expected version " + std::to_string(kSpanFileVersion) +
                         ", found " + std::to_string(p.version) +
                         (p.version > kSpanFileVersion ? ": written by a newer phasor" : ""));
    }
  }
  if (bytes.size() < kSpanPreambleBytes) {
    return DataCorrupt(name + ": expected at least " + std::to_string(kSpanPreambleBytes) +
                       " bytes, found " + std::to_string(bytes.size()));
  }
  std::memcpy(static_cast<void*>(&p), bytes.data(), kSpanPreambleBytes);
  if (HashBytes(bytes.first(kHashedPreambleBytes)) != p.preamble_hash) {
    return DataCorrupt(name +
                       ": checksum of the preamble: expected that of its bytes, found another");
  }
  if (p.file_bytes != bytes.size()) {
    return DataCorrupt(name + ": expected " + std::to_string(p.file_bytes) + " bytes, found " +
                       std::to_string(bytes.size()));
  }
  if (p.header_bytes % kAlignment != 0 || p.header_bytes > bytes.size() - kSpanPreambleBytes) {
    return DataCorrupt(name + ": header: expected a multiple of 64 and at most " +
                       std::to_string(bytes.size() - kSpanPreambleBytes) + " bytes, found " +
                       std::to_string(p.header_bytes));
  }
  if (p.reserved != 0 || p.unused[0] != 0 || p.unused[1] != 0) {
    return DataCorrupt(name + ": unused fields of the preamble: expected 0, found other numbers");
  }
  return p;
}

// What SpanImage and WriteSpanFile write to.
class ByteOutput {
 public:
  virtual ~ByteOutput() = default;
  virtual Status Append(const void* data, std::size_t size) = 0;
  virtual Status Overwrite(uint64_t offset, const void* data, std::size_t size) = 0;
};

class FileOutput final : public ByteOutput {
 public:
  explicit FileOutput(AtomicFileWriter* file) : file_(file) {}
  Status Append(const void* data, std::size_t size) override { return file_->Write(data, size); }
  Status Overwrite(uint64_t offset, const void* data, std::size_t size) override {
    return file_->WriteAt(offset, data, size);
  }

 private:
  AtomicFileWriter* file_;
};

class MemoryOutput final : public ByteOutput {
 public:
  explicit MemoryOutput(AlignedBuffer<std::byte>* image) : image_(image) {}
  Status Append(const void* data, std::size_t size) override {
    PHASOR_RETURN_IF_ERROR(Overwrite(end_, data, size));
    end_ += size;
    return Status::Ok();
  }
  Status Overwrite(uint64_t offset, const void* data, std::size_t size) override {
    PHASOR_CHECK(offset + size <= image_->size());
    std::memcpy(image_->data() + offset, data, size);
    return Status::Ok();
  }

 private:
  AlignedBuffer<std::byte>* image_;
  uint64_t end_ = 0;
};

// The pages of one block, collected in `buffer` in the order of the file.
void GatherBlock(const SpanSource& source, uint32_t index, std::vector<std::byte>* buffer) {
  const SpanHeader& header = source.header();
  const SpanFingerprint& f = header.fingerprint;
  const SpanBlock& block = header.blocks[index];
  buffer->clear();
  const auto append = [&](std::span<const std::byte> page, uint32_t layer, uint32_t head,
                          bool key) {
    PHASOR_CHECK(page.size() == SpanPageBytes(f, block, layer, head, key));
    buffer->insert(buffer->end(), page.begin(), page.end());
    buffer->resize(AlignUp(buffer->size()));  // zeros
  };
  for (uint32_t layer = 0; layer < f.n_layers; ++layer) {
    for (uint32_t head = 0; head < f.n_kv_heads; ++head) {
      append(source.KeyPage(index, layer, head), layer, head, true);
      append(source.ValuePage(index, layer, head), layer, head, false);
    }
  }
}

// Blocks first, because the header holds their checksums; its size is known before.
Status WriteSpan(const SpanSource& source, ByteOutput* out) {
  const SpanHeader& header = source.header();
  std::vector<uint64_t> hashes(header.blocks.size(), 0);
  std::vector<std::byte> encoded = EncodeSpanHeader(header, hashes);
  SpanPreamble preamble;
  preamble.header_bytes = encoded.size();
  preamble.file_bytes = kSpanPreambleBytes + encoded.size();
  PHASOR_RETURN_IF_ERROR(out->Append(&preamble, sizeof(preamble)));
  PHASOR_RETURN_IF_ERROR(out->Append(encoded.data(), encoded.size()));
  std::vector<std::byte> buffer;
  for (uint32_t i = 0; i < header.blocks.size(); ++i) {
    GatherBlock(source, i, &buffer);
    hashes[i] = HashBytes(buffer);
    preamble.file_bytes += buffer.size();
    PHASOR_RETURN_IF_ERROR(out->Append(buffer.data(), buffer.size()));
  }
  encoded = EncodeSpanHeader(header, hashes);
  preamble.header_hash = HashBytes(encoded);
  preamble.preamble_hash =
      HashBytes(std::as_bytes(std::span(&preamble, 1)).first(kHashedPreambleBytes));
  PHASOR_RETURN_IF_ERROR(out->Overwrite(0, &preamble, sizeof(preamble)));
  return out->Overwrite(kSpanPreambleBytes, encoded.data(), encoded.size());
}

// Reads the file into the page cache, so that a device that fails gives an error here and not a
// signal on first use. Does nothing where the kernel (before 5.14) or the headers lack the call.
Status Populate(const MappedFile& file) {
#ifdef MADV_POPULATE_READ
  const std::span<const std::byte> bytes = file.bytes();
  if (!bytes.empty() &&
      ::madvise(const_cast<std::byte*>(bytes.data()), bytes.size(), MADV_POPULATE_READ) != 0 &&
      (errno == EFAULT || errno == EIO || errno == EHWPOISON)) {
    return Unavailable(file.path() + ": cannot read: " + std::strerror(EIO));
  }
#endif
  return Status::Ok();
}

}  // namespace

Result<SpanFileInfo> ReadSpanFileInfo(std::span<const std::byte> bytes, const std::string& name) {
  PHASOR_ASSIGN_OR_RETURN(const SpanPreamble preamble, ReadPreamble(bytes, name));
  const auto header_bytes = bytes.subspan(kSpanPreambleBytes, preamble.header_bytes);
  if (HashBytes(header_bytes) != preamble.header_hash) {
    return DataCorrupt(name +
                       ": checksum of the header: expected that of its bytes, found another");
  }
  PHASOR_ASSIGN_OR_RETURN(DecodedSpanHeader decoded, DecodeSpanHeader(header_bytes, name));
  SpanFileInfo info{std::move(decoded.header), std::move(decoded.block_hashes), {}};
  PHASOR_ASSIGN_OR_RETURN(info.block_offsets,
                          BlockOffsets(info.header, preamble.header_bytes, bytes.size(), name));
  if (info.block_offsets.back() != bytes.size()) {
    return DataCorrupt(name + ": blocks: expected the file to end at " +
                       std::to_string(info.block_offsets.back()) + " bytes, found " +
                       std::to_string(bytes.size()));
  }
  return info;
}

Result<SpanFileInfo> ReadSpanFileInfo(const std::string& path) {
  PHASOR_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  return ReadSpanFileInfo(file.bytes(), path);
}

namespace {

// All that ReadSpanFileInfo checks, and the blocks.
Result<SpanFileInfo> CheckAll(std::span<const std::byte> bytes, const std::string& name) {
  PHASOR_ASSIGN_OR_RETURN(SpanFileInfo info, ReadSpanFileInfo(bytes, name));
  for (std::size_t i = 0; i < info.block_hashes.size(); ++i) {
    const uint64_t begin = info.block_offsets[i], end = info.block_offsets[i + 1];
    if (HashBytes(bytes.subspan(begin, end - begin)) != info.block_hashes[i]) {
      return DataCorrupt(name + ": checksum of block " + std::to_string(i) +
                         ": expected that of its bytes, found another");
    }
  }
  return info;
}

}  // namespace

Status SpanFile::Recheck() const { return CheckAll(bytes_, name_).status(); }

Status SpanFile::Adopt(std::span<const std::byte> bytes, const std::string& name) {
  PHASOR_ASSIGN_OR_RETURN(SpanFileInfo info, CheckAll(bytes, name));
  bytes_ = bytes;
  name_ = name;
  header_ = std::move(info.header);
  block_offset_ = std::move(info.block_offsets);
  FindPages();
  return Status::Ok();
}

Result<std::shared_ptr<const SpanFile>> SpanFile::Open(const std::string& path) {
  std::shared_ptr<SpanFile> file(new SpanFile());
  PHASOR_ASSIGN_OR_RETURN(file->file_, MappedFile::Open(path));
  PHASOR_RETURN_IF_ERROR(Populate(file->file_));
  PHASOR_RETURN_IF_ERROR(file->Adopt(file->file_.bytes(), path));
  return std::shared_ptr<const SpanFile>(std::move(file));
}

Result<std::shared_ptr<const SpanFile>> SpanFile::FromImage(AlignedBuffer<std::byte> image,
                                                            const std::string& name) {
  std::shared_ptr<SpanFile> file(new SpanFile());
  file->image_ = std::move(image);
  PHASOR_RETURN_IF_ERROR(file->Adopt({file->image_.data(), file->image_.size()}, name));
  return std::shared_ptr<const SpanFile>(std::move(file));
}

void SpanFile::FindPages() {
  const SpanFingerprint& f = header_.fingerprint;
  std::map<std::pair<SpanEncoding, uint32_t>, uint32_t> shapes;
  for (const SpanBlock& block : header_.blocks) {
    const auto [it, fresh] =
        shapes.try_emplace(ShapeOf(block), static_cast<uint32_t>(page_offset_.size()));
    shape_of_block_.push_back(it->second);
    if (!fresh) continue;
    std::vector<uint64_t>& offsets = page_offset_.emplace_back();
    uint64_t offset = 0;
    for (uint32_t layer = 0; layer < f.n_layers; ++layer) {
      for (uint32_t head = 0; head < f.n_kv_heads; ++head) {
        for (bool key : {true, false}) {
          offsets.push_back(offset);
          offset += AlignUp(SpanPageBytes(f, block, layer, head, key));
        }
      }
    }
  }
}

std::span<const std::byte> SpanFile::Page(uint32_t block, uint32_t layer, uint32_t head,
                                          bool key) const {
  const SpanFingerprint& f = header_.fingerprint;
  PHASOR_CHECK(block < header_.blocks.size() && layer < f.n_layers && head < f.n_kv_heads);
  const std::size_t index = (std::size_t{layer} * f.n_kv_heads + head) * 2 + (key ? 0 : 1);
  return bytes_.subspan(block_offset_[block] + page_offset_[shape_of_block_[block]][index],
                        SpanPageBytes(f, header_.blocks[block], layer, head, key));
}

std::span<const std::byte> SpanFile::KeyPage(uint32_t block, uint32_t layer, uint32_t head) const {
  return Page(block, layer, head, true);
}

std::span<const std::byte> SpanFile::ValuePage(uint32_t block, uint32_t layer,
                                               uint32_t head) const {
  return Page(block, layer, head, false);
}

uint64_t SpanFileBytes(const SpanHeader& header) {
  const std::vector<uint64_t> hashes(header.blocks.size(), 0);
  const uint64_t header_bytes = EncodeSpanHeader(header, hashes).size();
  auto offsets = BlockOffsets(header, header_bytes, UINT64_MAX - 1, "span");
  PHASOR_CHECK(offsets.ok());
  return offsets->back();
}

Status WriteSpanFile(const std::string& path, const SpanSource& source) {
  PHASOR_RETURN_IF_ERROR(ValidateSpanHeader(source.header(), path));
  PHASOR_ASSIGN_OR_RETURN(AtomicFileWriter file, AtomicFileWriter::Create(path));
  FileOutput output(&file);
  PHASOR_RETURN_IF_ERROR(WriteSpan(source, &output));
  return file.Commit();
}

Result<AlignedBuffer<std::byte>> SpanImage(const SpanSource& source) {
  PHASOR_RETURN_IF_ERROR(ValidateSpanHeader(source.header(), "span"));
  const uint64_t size = SpanFileBytes(source.header());
  try {
    AlignedBuffer<std::byte> image(size);
    MemoryOutput output(&image);
    PHASOR_RETURN_IF_ERROR(WriteSpan(source, &output));
    return image;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("span: expected " + std::to_string(size) +
                             " bytes of memory, found too little");
  }
}

}  // namespace phasor
