// The header section of a span file as bytes (docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "phasor/status.h"
#include "store/span.h"

namespace phasor {

// The part that both the file and the keys of the chunk store hash.
void AppendFingerprint(const SpanFingerprint& fingerprint, std::vector<std::byte>* out);

// The header must be valid (ValidateSpanHeader). block_hashes: one per block.
std::vector<std::byte> EncodeSpanHeader(const SpanHeader& header,
                                        std::span<const uint64_t> block_hashes);

struct DecodedSpanHeader {
  SpanHeader header;
  std::vector<uint64_t> block_hashes;  // [n blocks]
};

// Any bytes give a valid header or kDataCorrupt. Takes memory in proportion to bytes.size(). All
// bytes must belong to a field, up to zeros that fill the last kSpanAlignment of them.
Result<DecodedSpanHeader> DecodeSpanHeader(std::span<const std::byte> bytes,
                                           const std::string& where);

}  // namespace phasor
