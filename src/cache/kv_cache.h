// The KV cache of one sequence: pages of codes, and 16-bit rows for the first and newest tokens.
//
// Per layer and KV head the tokens lie, in order, in three stretches:
//
//   [ sink: n_sink tokens, row codec ][ frozen: pages of 128 codes ][ window: row codec pages ]
//
// New tokens go into the window. When the window holds more than n_recent + 127 tokens, its oldest
// 128 are encoded by the layer's codec and become a frozen page. So at least n_recent and at most
// n_recent + 127 newest tokens stay in 16 bit between calls (a prefill chunk adds its own tokens
// until it is complete), every codec sees exactly the same tokens, and frozen codes never change.
// Freezing takes place at the same token counts however the text was cut into calls, as long as
// Freeze runs after each; so one long prefill and many short ones give equal pages.
//
// Not thread-safe, except that distinct (layer, head) pairs may be appended to and frozen by
// distinct threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "contracts/kv_codec.h"
#include "phasor/status.h"

namespace phasor {

struct KvCacheOptions {
  int n_layers = 0, n_kv_heads = 0, head_dim = 0;
  int n_sink = 4;
  int n_recent = 128;
};

// The codecs of one (layer, KV head). The row codecs hold sink and window.
struct KvHeadCodecs {
  std::unique_ptr<KvCodec> key, value;
  std::unique_ptr<RowKvCodec> key_rows, value_rows;
};

// A stretch of tokens in one encoding: what attention iterates over.
struct KvSegment {
  const KvCodec* key_codec;
  const KvCodec* value_codec;
  const std::byte* key_page;
  const std::byte* value_page;
  int64_t first_token;  // index of the stretch's first token in the sequence
  int n_tokens;         // 1 .. kPageTokens
};

class KvCache {
 public:
  // codecs: [n_layers * n_kv_heads], layer-major. Checked by the caller to fit head_dim.
  KvCache(const KvCacheOptions& options, std::vector<KvHeadCodecs> codecs);
  ~KvCache();

  int64_t n_tokens() const { return n_tokens_; }
  const KvCacheOptions& options() const { return options_; }
  const KvHeadCodecs& codecs(int layer, int head) const { return codecs_[Index(layer, head)]; }

  // Makes room for n more tokens in every head. kResourceExhausted leaves the cache unchanged.
  Status Reserve(int n);
  // Writes n rows [n, D] (after RoPE, in model basis; rotated by the codec here) of one head at
  // positions [n_tokens, n_tokens + n). x is overwritten where the codec has a rotation.
  void AppendHead(int layer, int head, float* k_ND, float* v_ND, int n);
  // Makes the n appended tokens of all heads part of the sequence.
  void CommitAppend(int n) { n_tokens_ += n; }
  // Number of pages that the window should now give up; FreezeHead encodes them for one head, and
  // CommitFreeze records it once all heads are done.
  int PagesToFreeze() const;
  void FreezeHead(int layer, int head, int n_pages);
  void CommitFreeze(int n_pages);

  // Segments of one head covering tokens [0, n_tokens() + n_uncommitted).
  void Segments(int layer, int head, int n_uncommitted, std::vector<KvSegment>* out) const;

  // Forgets tokens from n on. A cut inside a frozen page decodes that page back into the window.
  Status Truncate(int64_t n_tokens);
  void Clear() { (void)Truncate(0); }

  int64_t n_frozen_pages() const { return n_frozen_; }
  // Bytes that hold tokens: frozen pages with their metadata, and the 16-bit rows in use.
  std::size_t UsedBytes() const;
  // Bytes taken from the system, room for more tokens included.
  std::size_t AllocatedBytes() const;
  std::size_t FrozenBytes() const;

 private:
  struct Head;
  struct PageStore;
  int Index(int layer, int head) const { return layer * options_.n_kv_heads + head; }

  KvCacheOptions options_;
  std::vector<KvHeadCodecs> codecs_;
  std::vector<Head> heads_;
  int64_t n_tokens_ = 0;
  int64_t n_frozen_ = 0;  // frozen pages per head
};

}  // namespace phasor
