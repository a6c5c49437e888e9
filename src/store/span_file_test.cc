// Span files: what is written comes back, and nothing else is ever accepted.
#include "store/span_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "tests/support/span_builder.h"

namespace phasor {
namespace {

using phasor::testing::MemorySink;
using phasor::testing::MemorySpan;
using phasor::testing::RandomFingerprint;
using phasor::testing::RandomSpan;

AlignedBuffer<std::byte> ImageOf(const SpanSource& source) {
  auto image = SpanImage(source);
  EXPECT_TRUE(image.ok()) << image.status().message();
  return std::move(image).value();
}

// An aligned buffer ends at a multiple of 64 bytes, a vector exactly, where ASan sees any read past
// the end: the header is checked in both.
Status Refusal(const std::vector<std::byte>& bytes) {
  const std::vector<std::byte> exact(bytes);
  (void)ReadSpanFileInfo(exact, "damaged");
  AlignedBuffer<std::byte> copy(bytes.size());
  if (!bytes.empty()) std::memcpy(copy.data(), bytes.data(), bytes.size());
  return SpanFile::FromImage(std::move(copy), "damaged").status();
}

std::vector<std::byte> SmallImage() {
  Rng rng(5);
  MemorySpan span = RandomSpan(rng, RandomFingerprint(rng, 2, 2, 40), 2);
  span.span.attachments = {{"logits", "abc"}};
  const AlignedBuffer<std::byte> image = ImageOf(span);
  return {image.data(), image.data() + image.size()};
}

// The image with the checksums of preamble and header made right again.
void RepairHeader(std::vector<std::byte>* image) {
  SpanPreamble p;
  std::memcpy(static_cast<void*>(&p), image->data(), sizeof(p));
  p.header_hash = HashBytes(std::span(*image).subspan(kSpanPreambleBytes, p.header_bytes));
  p.preamble_hash =
      HashBytes(std::as_bytes(std::span(&p, 1)).first(offsetof(SpanPreamble, preamble_hash)));
  std::memcpy(image->data(), &p, sizeof(p));
}

std::string TempPath(const std::string& name) {
  const std::string folder = ::testing::TempDir() + "phasor_span_file_test";
  std::filesystem::create_directories(folder);
  return folder + "/" + name;
}

TEST(SpanFile, RandomSpansComeBackBitForBit) {
  constexpr int kRounds = 200;
  Rng rng(1);
  for (int round = 0; round < kRounds; ++round) {
    const auto n_blocks = static_cast<uint32_t>(1 + rng.Below(6));
    const MemorySpan span = RandomSpan(rng, RandomFingerprint(rng, 5, 4, 3000), n_blocks);
    AlignedBuffer<std::byte> image = ImageOf(span);
    ASSERT_EQ(image.size(), SpanFileBytes(span.header()));
    auto file = SpanFile::FromImage(std::move(image), "image");
    ASSERT_TRUE(file.ok()) << file.status().message();
    ASSERT_EQ((*file)->header(), span.header());
    MemorySink sink;
    ASSERT_TRUE(CopySpan(**file, &sink).ok());
    ASSERT_TRUE(sink.committed);
    ASSERT_EQ(sink.span.pages, span.pages);
  }
}

TEST(SpanFile, TheFileHoldsTheBytesOfTheImageAndPagesLieOn64Bytes) {
  Rng rng(2);
  const MemorySpan span = RandomSpan(rng, RandomFingerprint(rng, 3, 3, 2000), 5);
  const std::string path = TempPath("same.span");
  ASSERT_TRUE(WriteSpanFile(path, span).ok());
  const AlignedBuffer<std::byte> image = ImageOf(span);
  auto text = ReadFile(path);
  ASSERT_TRUE(text.ok());
  ASSERT_EQ(text->size(), image.size());
  EXPECT_EQ(std::memcmp(text->data(), image.data(), image.size()), 0);
  auto file = SpanFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const SpanFingerprint& f = span.header().fingerprint;
  for (uint32_t b = 0; b < 5; ++b) {
    for (uint32_t l = 0; l < f.n_layers; ++l) {
      for (uint32_t h = 0; h < f.n_kv_heads; ++h) {
        const auto key = (*file)->KeyPage(b, l, h), value = (*file)->ValuePage(b, l, h);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(key.data()) % kAlignment, 0u);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(value.data()) % kAlignment, 0u);
      }
    }
  }
  std::filesystem::remove(path);
}

TEST(SpanFile, EveryFlippedByteIsRefused) {
  const std::vector<std::byte> image = SmallImage();
  ASSERT_TRUE(Refusal(image).ok());
  for (std::size_t at = 0; at < image.size(); ++at) {
    for (uint8_t flip : {0x01, 0x80, 0xff}) {
      std::vector<std::byte> damaged = image;
      damaged[at] ^= static_cast<std::byte>(flip);
      const Status status = Refusal(damaged);
      ASSERT_FALSE(status.ok()) << "byte " << at << " of " << image.size();
      ASSERT_FALSE(status.message().empty());
    }
  }
}

TEST(SpanFile, EveryOtherLengthIsRefused) {
  const std::vector<std::byte> image = SmallImage();
  for (std::size_t size = 0; size < image.size(); ++size) {
    ASSERT_FALSE(Refusal({image.begin(), image.begin() + size}).ok()) << size << " bytes";
  }
  for (std::size_t more : {1, 63, 64, 4096}) {
    std::vector<std::byte> longer = image;
    longer.insert(longer.end(), more, std::byte{0});
    ASSERT_FALSE(Refusal(longer).ok()) << more << " bytes more";
  }
}

TEST(SpanFile, EveryHeaderWithAnExtremeWordIsRefusedOrConsistent) {
  constexpr uint64_t kWords[] = {0,
                                 1,
                                 63,
                                 uint64_t{1} << 31,
                                 uint64_t{1} << 32,
                                 uint64_t{1} << 61,
                                 uint64_t{1} << 63,
                                 ~uint64_t{0}};
  const std::vector<std::byte> image = SmallImage();
  int n_refused = 0, n_accepted = 0;
  for (std::size_t at = 8; at + 8 <= image.size(); at += 4) {
    for (uint64_t word : kWords) {
      std::vector<std::byte> damaged = image;
      std::memcpy(damaged.data() + at, &word, sizeof(word));
      SpanPreamble p;
      std::memcpy(static_cast<void*>(&p), damaged.data(), sizeof(p));
      if (p.header_bytes > damaged.size() - kSpanPreambleBytes) continue;
      RepairHeader(&damaged);
      auto info = ReadSpanFileInfo(damaged, "damaged");
      if (!info.ok()) {
        ++n_refused;
        continue;
      }
      ++n_accepted;  // a token, a position, a hash
      ASSERT_TRUE(ValidateSpanHeader(info->header, "accepted").ok());
      ASSERT_EQ(info->block_offsets.back(), damaged.size());
    }
  }
  EXPECT_GT(n_refused, 100);
  EXPECT_GT(n_accepted, 100);
}

TEST(SpanFile, OtherVersionsAreRefusedWithTheReason) {
  for (uint32_t version : {0u, 2u, 3u, 0xffffffffu}) {
    std::vector<std::byte> image = SmallImage();
    std::memcpy(image.data() + offsetof(SpanPreamble, version), &version, sizeof(version));
    // A newer file may be cut anywhere after its version, and have other checksums.
    for (std::size_t size : {image.size(), std::size_t{12}, std::size_t{40}}) {
      const Status status = Refusal({image.begin(), image.begin() + size});
      EXPECT_EQ(status.code(), StatusCode::kUnsupported);
      const std::string expected = "damaged: expected version 1, found " + std::to_string(version) +
                                   (version > 1 ? ": written by a newer phasor" : "");
      EXPECT_EQ(status.message(), expected);
    }
  }
}

TEST(SpanFile, FilesOfSomethingElseAreRefused) {
  const std::string path = TempPath("other.span");
  for (const std::string& text : {std::string(), std::string("GGUF"), std::string(1000, '\0')}) {
    auto writer = AtomicFileWriter::Create(path);
    ASSERT_TRUE(writer.ok() && writer->Write(text).ok() && writer->Commit().ok());
    EXPECT_EQ(SpanFile::Open(path).status().code(), StatusCode::kDataCorrupt);
  }
  std::filesystem::remove(path);
  EXPECT_EQ(SpanFile::Open(path).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SpanFile::Open(TempPath("")).status().code(), StatusCode::kInvalidArgument);
}

TEST(SpanFile, AForeignFingerprintIsRefusedByTheNameOfTheField) {
  Rng rng(4);
  const MemorySpan span = RandomSpan(rng, RandomFingerprint(rng, 4, 3, 50), 1);
  auto file = SpanFile::FromImage(ImageOf(span), "entry");
  ASSERT_TRUE(file.ok());
  const SpanFingerprint& own = span.header().fingerprint;
  EXPECT_TRUE((*file)->CheckFits(own).ok());
  struct Case {
    const char* field;
    std::function<void(SpanFingerprint&)> change;
  };
  const Case cases[] = {
      {"model hash", [](auto& f) { f.model_hash += "0"; }},
      {"tokenizer hash", [](auto& f) { f.tokenizer_hash = ""; }},
      {"layers", [](auto& f) { f.n_layers += 1; }},
      {"KV heads", [](auto& f) { f.n_kv_heads += 1; }},
      {"head size", [](auto& f) { f.head_dim *= 2; }},
      {"rotated dimensions", [](auto& f) { f.n_rot += 2; }},
      {"tokens of a full block", [](auto& f) { f.page_tokens += 1; }},
      {"RoPE schedule", [](auto& f) { f.rope_schedule = "yarn, factor 4"; }},
      {"RoPE frequencies (hash)", [](auto& f) { f.rope_hash ^= 1; }},
      {"layer 0: K type", [](auto& f) { f.layers[0].key_codec = "polar"; }},
      {"layer 0: V type", [](auto& f) { f.layers[0].value_codec = "f16"; }},
      {"layer 0: K type of rows", [](auto& f) { f.layers[0].key_rows = "bf16"; }},
      {"layer 0: V type of rows", [](auto& f) { f.layers[0].value_rows = "f32"; }},
      {"layer 0: calibration (hash)", [](auto& f) { f.layers[0].calibration_hash ^= 1; }},
      {"layer 0: KV head 0: bytes of a K row", [](auto& f) { f.head_bytes[0].key_row += 1; }},
      {"layer 0: KV head 0: bytes of a V row", [](auto& f) { f.head_bytes[0].value_row += 1; }},
      {"layer 0: KV head 0: bytes of a K page", [](auto& f) { f.head_bytes[0].key_page += 1; }},
      {"layer 0: KV head 0: bytes of a V page", [](auto& f) { f.head_bytes[0].value_page += 1; }},
  };
  for (const Case& c : cases) {
    SpanFingerprint other = own;
    c.change(other);
    const Status status = (*file)->CheckFits(other);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message().find(std::string("entry: ") + c.field + ": expected "), 0u)
        << status.message();
  }
}

TEST(SpanFile, HeadersThatContradictThemselvesAreNeitherWrittenNorRead) {
  Rng rng(6);
  const MemorySpan good = RandomSpan(rng, RandomFingerprint(rng, 2, 2, 50), 3);
  const std::function<void(SpanHeader&)> breaks[] = {
      [](SpanHeader& h) { h.tokens.pop_back(); },
      [](SpanHeader& h) { h.tokens.clear(); },
      [](SpanHeader& h) { h.pieces[0].block = 3; },
      [](SpanHeader& h) { h.pieces[1].first_row = h.blocks[1].first_row + h.blocks[1].n_tokens(); },
      [](SpanHeader& h) { h.pieces[1].n_rows = 0; },
      [](SpanHeader& h) { h.pieces[1].n_rows = UINT32_MAX; },
      [](SpanHeader& h) { h.pieces[2].shift = INT64_MIN; },
      [](SpanHeader& h) { h.blocks[0].positions[0] = kMaxPosition + 1; },
      [](SpanHeader& h) { h.blocks[0].positions.clear(); },
      [](SpanHeader& h) { h.blocks[0].first_row = h.fingerprint.page_tokens; },
      [](SpanHeader& h) { h.blocks[0].first_row = UINT32_MAX; },
      [](SpanHeader& h) {
        h.blocks[1].encoding = SpanEncoding::kCodes;
        h.blocks[1].first_row = 1;
      },
      [](SpanHeader& h) { h.blocks[0].positions.resize(h.fingerprint.page_tokens + 1); },
      [](SpanHeader& h) { h.blocks[0].encoding = static_cast<SpanEncoding>(2); },
      [](SpanHeader& h) { h.fingerprint.head_bytes[0].key_page = 0; },
      [](SpanHeader& h) { h.fingerprint.page_tokens = 0; },
      [](SpanHeader& h) { h.fingerprint.head_bytes.pop_back(); },
      [](SpanHeader& h) { h.fingerprint.layers.pop_back(); },
      [](SpanHeader& h) { h.fingerprint.model_hash = "a\nb"; },
      [](SpanHeader& h) { h.fingerprint.rope_schedule = std::string(kMaxSpanString + 1, 'a'); },
      [](SpanHeader& h) { h.left_context = {.known = false, .n_tokens = 1, .hash = {}}; },
      [](SpanHeader& h) {
        h.left_context = LeftContext({});
        h.pieces[0].flags |= kSpanStale;
      },
      [](SpanHeader& h) { h.pieces[0].schedule = 2; },
      [](SpanHeader& h) { h.pieces[0].group = 2; },
      [](SpanHeader& h) { h.pieces[0].flags = kSpanAllFlags + 1; },
      [](SpanHeader& h) { h.schedules.clear(); },
      [](SpanHeader& h) { h.schedules[0].attention_factor = std::nanf(""); },
      [](SpanHeader& h) { h.schedules[1].step_P.push_back(1); },
      [](SpanHeader& h) { h.end_position = INT64_MAX; },
      [](SpanHeader& h) { h.fingerprint.n_rot = h.fingerprint.head_dim + 2; },
      [](SpanHeader& h) { h.fingerprint.n_rot |= 1; },
      [](SpanHeader& h) {
        h.attachments = {{"a", ""}, {"a", "b"}};
      },
      [](SpanHeader& h) {  // a block that no piece uses
        for (SpanPiece& p : h.pieces) p = SpanPiece{.n_rows = 1};
        h.tokens.resize(h.pieces.size());
      },
  };
  for (std::size_t i = 0; i < std::size(breaks); ++i) {
    MemorySpan bad = good;
    breaks[i](bad.span);
    EXPECT_EQ(ValidateSpanHeader(bad.span, "h").code(), StatusCode::kDataCorrupt) << "case " << i;
    EXPECT_FALSE(SpanImage(bad).ok()) << "case " << i;
    EXPECT_FALSE(WriteSpanFile(TempPath("bad.span"), bad).ok()) << "case " << i;
    EXPECT_FALSE(FileExists(TempPath("bad.span")));
  }
}

TEST(SpanFile, PlacingASpanMovesItsShiftsAndRefusesOffsetsWithoutRoom) {
  Rng rng(7);
  const SpanHeader header = RandomSpan(rng, RandomFingerprint(rng, 1, 1, 10), 4).span;
  const std::vector<int64_t> before = SpanPositions(header);
  const int64_t lowest = *std::min_element(before.begin(), before.end());
  // Any start that leaves the lowest token at 0 or above; fractions of a position count.
  for (int64_t first : {before[0] - lowest, before[0], before[0] + 12345, int64_t{1} << 50}) {
    auto pieces = PiecesAt(header, first);
    ASSERT_TRUE(pieces.ok()) << pieces.status().message();
    SpanHeader moved = header;
    moved.pieces = *pieces;
    const std::vector<int64_t> after = SpanPositions(moved);
    ASSERT_EQ(after[0], first);
    for (std::size_t i = 0; i < after.size(); ++i) {
      ASSERT_EQ(after[i] - after[0], before[i] - before[0]);
    }
  }
  for (int64_t first :
       {int64_t{-1}, INT64_MIN, before[0] - lowest - 1, kMaxPosition + 1, INT64_MAX}) {
    EXPECT_EQ(PiecesAt(header, first).status().code(), StatusCode::kOutOfRange) << first;
  }
  // The first token has room and the last has none.
  SpanHeader two = header;
  two.blocks = {{.positions = {0, kPositionOne}}};
  two.pieces = {SpanPiece{.n_rows = 2}};
  two.tokens = {1, 2};
  EXPECT_TRUE(PiecesAt(two, kMaxPosition - kPositionOne).ok());
  EXPECT_EQ(PiecesAt(two, kMaxPosition).status().code(), StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace phasor
