// Spans with random shapes and pages, for the tests of the store.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "store/span.h"

namespace phasor::testing {

// A span whose pages lie in vectors; what a cache is to the store.
class MemorySpan final : public SpanSource {
 public:
  SpanHeader span;
  std::vector<std::vector<std::byte>> pages;  // [block, layer, head, K or V]

  const SpanHeader& header() const override { return span; }
  std::span<const std::byte> KeyPage(uint32_t b, uint32_t l, uint32_t h) const override {
    return pages[Index(b, l, h, 0)];
  }
  std::span<const std::byte> ValuePage(uint32_t b, uint32_t l, uint32_t h) const override {
    return pages[Index(b, l, h, 1)];
  }
  std::size_t Index(uint32_t b, uint32_t l, uint32_t h, int value) const {
    const SpanFingerprint& f = span.fingerprint;
    return ((std::size_t{b} * f.n_layers + l) * f.n_kv_heads + h) * 2 + value;
  }
  // Pages of the right sizes for the header, filled from `rng`.
  void FillPages(Rng& rng) {
    const SpanFingerprint& f = span.fingerprint;
    pages.clear();
    for (const SpanBlock& block : span.blocks) {
      for (uint32_t l = 0; l < f.n_layers; ++l) {
        for (uint32_t h = 0; h < f.n_kv_heads; ++h) {
          for (bool key : {true, false}) {
            std::vector<std::byte>& page = pages.emplace_back(SpanPageBytes(f, block, l, h, key));
            for (std::byte& b : page) b = static_cast<std::byte>(rng.NextU64());
          }
        }
      }
    }
  }
};

// Takes a span in; what a cache is when a file is restored.
class MemorySink final : public SpanSink {
 public:
  MemorySpan span;
  bool committed = false;

  Status Begin(const SpanHeader& header) override {
    span.span = header;
    Rng zero(0);
    span.FillPages(zero);
    return Status::Ok();
  }
  std::span<std::byte> KeyPage(uint32_t b, uint32_t l, uint32_t h) override {
    return span.pages[span.Index(b, l, h, 0)];
  }
  std::span<std::byte> ValuePage(uint32_t b, uint32_t l, uint32_t h) override {
    return span.pages[span.Index(b, l, h, 1)];
  }
  Status Commit() override {
    committed = true;
    return Status::Ok();
  }
};

// Pages of up to max_page_bytes; a block of rows takes up to 128 * 256 bytes more per head.
inline SpanFingerprint RandomFingerprint(Rng& rng, uint32_t max_layers, uint32_t max_heads,
                                         uint32_t max_page_bytes) {
  SpanFingerprint f;
  f.model_hash = std::to_string(rng.NextU64());
  f.tokenizer_hash = std::to_string(rng.NextU64());
  f.n_layers = static_cast<uint32_t>(1 + rng.Below(max_layers));
  f.n_kv_heads = static_cast<uint32_t>(1 + rng.Below(max_heads));
  f.head_dim = static_cast<uint32_t>(8 * (1 + rng.Below(16)));
  f.n_rot = static_cast<uint32_t>(2 * rng.Below(f.head_dim / 2 + 1));
  f.page_tokens = static_cast<uint32_t>(1 + rng.Below(128));
  f.rope_schedule = "rope, base 10000";
  f.rope_hash = rng.NextU64();
  for (uint32_t i = 0; i < f.n_layers; ++i) {
    f.layers.push_back(
        {"frame4", rng.Below(2) != 0 ? "q4_head" : "q8_0", "f16", "f16", rng.NextU64()});
  }
  const auto size = [&](uint32_t limit) { return static_cast<uint32_t>(1 + rng.Below(limit)); };
  const uint32_t key_row = size(2 * f.head_dim), value_row = size(2 * f.head_dim);
  for (uint32_t i = 0; i < f.n_layers * f.n_kv_heads; ++i) {
    f.head_bytes.push_back({key_row, value_row, size(max_page_bytes), size(max_page_bytes)});
  }
  return f;
}

inline SpanSchedule RandomSchedule(Rng& rng, const SpanFingerprint& fingerprint) {
  SpanSchedule schedule;
  schedule.attention_factor = static_cast<float>(0.5 + rng.Uniform());
  for (uint32_t j = 0; j < fingerprint.n_rot / 2; ++j) schedule.step_P.push_back(rng.NextU64());
  return schedule;
}

// n_blocks blocks of either encoding; pieces take parts of them in any order, some more than once.
inline MemorySpan RandomSpan(Rng& rng, SpanFingerprint fingerprint, uint32_t n_blocks) {
  MemorySpan s;
  s.span.fingerprint = std::move(fingerprint);
  int64_t position = static_cast<int64_t>(rng.Below(1 << 20)) * kPositionOne;
  for (uint32_t i = 0; i < n_blocks; ++i) {
    SpanBlock& block = s.span.blocks.emplace_back();
    block.encoding = rng.Below(2) != 0 ? SpanEncoding::kCodes : SpanEncoding::kRows;
    const uint32_t page_tokens = s.span.fingerprint.page_tokens;
    if (block.encoding == SpanEncoding::kRows) {
      block.first_row = static_cast<uint32_t>(rng.Below(page_tokens));
    }
    for (uint64_t n = 1 + rng.Below(page_tokens - block.first_row); n > 0; --n) {
      block.positions.push_back(position);
      position += kPositionOne;
    }
  }
  s.span.end_position = position + 5 * kPositionOne;
  s.span.schedules.push_back(RandomSchedule(rng, s.span.fingerprint));
  if (n_blocks > 1) s.span.schedules.push_back(RandomSchedule(rng, s.span.fingerprint));
  const uint32_t n_pieces = n_blocks + static_cast<uint32_t>(rng.Below(3));
  bool any_stale = false;
  for (uint32_t i = 0; i < n_pieces; ++i) {
    SpanPiece piece;
    piece.block = i < n_blocks ? i : static_cast<uint32_t>(rng.Below(n_blocks));
    const uint32_t n = s.span.blocks[piece.block].n_tokens();
    const auto skipped = static_cast<uint32_t>(rng.Below(n));
    piece.first_row = s.span.blocks[piece.block].first_row + skipped;
    piece.n_rows = static_cast<uint32_t>(1 + rng.Below(n - skipped));
    piece.shift = static_cast<int64_t>(rng.Below(1000)) * kPositionOne;
    piece.schedule = static_cast<uint32_t>(rng.Below(s.span.schedules.size()));
    piece.group = static_cast<uint32_t>(rng.Below(2));
    piece.flags = static_cast<uint32_t>(rng.Below(kSpanAllFlags + 1));
    any_stale = any_stale || (piece.flags & kSpanStale) != 0;
    for (uint32_t r = 0; r < piece.n_rows; ++r) {
      s.span.tokens.push_back(static_cast<int32_t>(rng.Below(50000)));
    }
    s.span.pieces.push_back(piece);
  }
  const std::vector<int32_t> left(rng.Below(20), 7);
  if (!any_stale) s.span.left_context = LeftContext(left);
  for (uint64_t n = rng.Below(3); n > 0; --n) {
    s.span.attachments.push_back({"part " + std::to_string(n), std::string(rng.Below(99), '\xff')});
  }
  s.FillPages(rng);
  return s;
}

// n_tokens random tokens at consecutive positions, as a model would leave them: full blocks of
// codes, then a block of rows.
inline MemorySpan ChunkSpan(Rng& rng, const SpanFingerprint& fingerprint, uint32_t n_tokens,
                            const SpanContext& left_context) {
  MemorySpan s;
  s.span.fingerprint = fingerprint;
  s.span.left_context = left_context;
  s.span.end_position = n_tokens * kPositionOne;
  s.span.schedules = {
      {.attention_factor = 1, .step_P = std::vector<uint64_t>(fingerprint.n_rot / 2)}};
  for (uint32_t at = 0; at < n_tokens;) {
    const uint32_t n = std::min(fingerprint.page_tokens, n_tokens - at);
    SpanBlock& block = s.span.blocks.emplace_back();
    block.encoding = n == fingerprint.page_tokens ? SpanEncoding::kCodes : SpanEncoding::kRows;
    for (uint32_t i = 0; i < n; ++i) block.positions.push_back((at + i) * kPositionOne);
    SpanPiece& piece = s.span.pieces.emplace_back();
    piece.block = static_cast<uint32_t>(s.span.blocks.size() - 1);
    piece.n_rows = n;
    at += n;
  }
  for (uint32_t i = 0; i < n_tokens; ++i) {
    s.span.tokens.push_back(static_cast<int32_t>(rng.Below(50000)));
  }
  s.FillPages(rng);
  return s;
}

}  // namespace phasor::testing
