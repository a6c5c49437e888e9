// libFuzzer entry for the span file reader: any bytes give a span or an error.
//
// A flipped bit never passes the checksums, so the input is tried twice: as it is, and with its
// length and checksums made right, which lets every number of the header through to the parser.
#include <cstddef>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "store/hash.h"
#include "store/span_file.h"
#include "store/span_header.h"

namespace {

using phasor::AlignedBuffer;
using phasor::HashBytes;
using phasor::SpanFile;
using phasor::SpanPreamble;

// Reads every byte that an accepted file hands out, and writes the span again.
void UseSpan(const SpanFile& file) {
  const phasor::SpanHeader& header = file.header();
  uint64_t sum = 0;
  for (uint32_t b = 0; b < header.blocks.size(); ++b) {
    for (uint32_t l = 0; l < header.fingerprint.n_layers; ++l) {
      for (uint32_t h = 0; h < header.fingerprint.n_kv_heads; ++h) {
        sum += HashBytes(file.KeyPage(b, l, h)) + HashBytes(file.ValuePage(b, l, h));
      }
    }
  }
  (void)phasor::PiecesAt(header, static_cast<int64_t>(sum));
  PHASOR_CHECK(file.CheckFits(header.fingerprint).ok());
  auto image = phasor::SpanImage(file);
  PHASOR_CHECK(image.ok() && image->size() == file.size_bytes());
  auto again = SpanFile::FromImage(std::move(*image), "again");
  PHASOR_CHECK(again.ok() && (*again)->header() == header);
}

void Read(const std::vector<std::byte>& bytes) {
  AlignedBuffer<std::byte> image(bytes.size());
  if (!bytes.empty()) std::memcpy(image.data(), bytes.data(), bytes.size());
  auto file = SpanFile::FromImage(std::move(image), "fuzz");
  if (file.ok()) {
    UseSpan(**file);
  } else {
    PHASOR_CHECK(!file.status().message().empty());
  }
}

void RepairPreamble(SpanPreamble p, std::vector<std::byte>* bytes) {
  p.file_bytes = bytes->size();
  p.header_hash = HashBytes(std::span(*bytes).subspan(phasor::kSpanPreambleBytes, p.header_bytes));
  p.preamble_hash =
      HashBytes(std::as_bytes(std::span(&p, 1)).first(offsetof(SpanPreamble, preamble_hash)));
  std::memcpy(bytes->data(), &p, sizeof(p));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  std::vector<std::byte> bytes(begin, begin + size);
  Read(bytes);
  SpanPreamble p;
  if (size < sizeof(p)) return 0;
  std::memcpy(static_cast<void*>(&p), bytes.data(), sizeof(p));
  if (p.header_bytes > size - sizeof(p)) p.header_bytes = (size - sizeof(p)) / 64 * 64;
  RepairPreamble(p, &bytes);
  auto info = phasor::ReadSpanFileInfo(bytes, "fuzz");
  if (!info.ok()) {
    PHASOR_CHECK(!info.status().message().empty());
    return 0;
  }
  // The hashes of the blocks stand first in the header, after their number.
  for (std::size_t i = 0; i < info->block_hashes.size(); ++i) {
    const uint64_t hash = HashBytes(std::span(bytes).subspan(
        info->block_offsets[i], info->block_offsets[i + 1] - info->block_offsets[i]));
    std::memcpy(bytes.data() + sizeof(p) + 8 * (i + 1), &hash, sizeof(hash));
  }
  RepairPreamble(p, &bytes);
  Read(bytes);
  return 0;
}
