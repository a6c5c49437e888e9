#include "cache/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/huge_pages.h"

namespace phasor {

// Pages of one size, allocated in slabs that never move, so that segments stay valid.
// Pairs of a key page and a value page, side by side: decoding reads one stream per head.
struct KvCache::PageStore {
  PageStore(std::size_t key_bytes, std::size_t value_bytes, int64_t pages_per_slab)
      : key_bytes(key_bytes),
        value_bytes(value_bytes),
        value_offset(Aligned(key_bytes)),
        stride(Aligned(key_bytes) + Aligned(value_bytes)),
        pages_per_slab(pages_per_slab) {}

  static std::size_t Aligned(std::size_t n) {
    return (n + kAlignment - 1) / kAlignment * kAlignment;
  }

  std::byte* Key(int64_t i) {
    return slabs[i / pages_per_slab].data() + i % pages_per_slab * stride;
  }
  const std::byte* Key(int64_t i) const {
    return slabs[i / pages_per_slab].data() + i % pages_per_slab * stride;
  }
  std::byte* Value(int64_t i) { return Key(i) + value_offset; }
  const std::byte* Value(int64_t i) const { return Key(i) + value_offset; }
  // Throws std::bad_alloc.
  void Ensure(int64_t n) {
    while (static_cast<int64_t>(slabs.size()) * pages_per_slab < n) {
      slabs.emplace_back(stride * pages_per_slab);
    }
  }

  std::size_t key_bytes, value_bytes, value_offset, stride;
  int64_t pages_per_slab;
  std::vector<HugeBlock> slabs;
};

struct KvCache::Head {
  explicit Head(const KvHeadCodecs& c)
      : frozen(c.key->PageBytes(), c.value->PageBytes(), 8),
        rows(c.key_rows->PageBytes(), c.value_rows->PageBytes(), 1) {}
  PageStore frozen;
  // Row pages: page 0 is the sink, then the window's pages in the order of `window`.
  PageStore rows;
  std::vector<int> window;     // row page numbers of the window, oldest first
  std::vector<int> free_rows;  // row pages not in use
  int n_rows = 1;              // row pages handed out so far (0 is the sink)
};

KvCache::KvCache(const KvCacheOptions& options, std::vector<KvHeadCodecs> codecs)
    : options_(options), codecs_(std::move(codecs)) {
  PHASOR_CHECK(static_cast<int>(codecs_.size()) == options.n_layers * options.n_kv_heads);
  PHASOR_CHECK(options.n_sink >= 0 && options.n_sink <= kPageTokens && options.n_recent >= 0);
  heads_.reserve(codecs_.size());
  for (const KvHeadCodecs& c : codecs_) heads_.emplace_back(c);
}

KvCache::~KvCache() = default;

Status KvCache::Reserve(int n) {
  const int64_t total = n_tokens_ + n;
  const int64_t in_window = std::max<int64_t>(0, total - options_.n_sink - n_frozen_ * kPageTokens);
  const int64_t window_pages = (in_window + kPageTokens - 1) / kPageTokens;
  try {
    for (Head& head : heads_) {
      head.rows.Ensure(1);
      while (static_cast<int64_t>(head.window.size()) < window_pages) {
        int page;
        if (!head.free_rows.empty()) {
          page = head.free_rows.back();
          head.free_rows.pop_back();
        } else {
          page = head.n_rows;
          head.rows.Ensure(page + 1);
          ++head.n_rows;
        }
        head.window.push_back(page);
      }
      // Frozen pages that this call may create.
      head.frozen.Ensure(n_frozen_ + window_pages);
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("cache: no memory for " + std::to_string(total) + " tokens");
  }
  return Status::Ok();
}

void KvCache::AppendHead(int layer, int head_index, float* k_ND, float* v_ND, int n) {
  const KvHeadCodecs& c = codecs_[Index(layer, head_index)];
  Head& head = heads_[Index(layer, head_index)];
  const int D = options_.head_dim;
  if (c.key->HasRotation()) c.key->Rotate(k_ND, n);
  if (c.value->HasRotation()) c.value->Rotate(v_ND, n);
  int64_t token = n_tokens_;
  for (int done = 0; done < n;) {
    int page, row, count;
    if (token < options_.n_sink) {
      page = 0;
      row = static_cast<int>(token);
      count = std::min<int>(n - done, options_.n_sink - row);
    } else {
      const int64_t offset = token - options_.n_sink - n_frozen_ * kPageTokens;
      page = head.window[offset / kPageTokens];
      row = static_cast<int>(offset % kPageTokens);
      count = std::min(n - done, kPageTokens - row);
    }
    c.key_rows->EncodeRows(k_ND + static_cast<int64_t>(done) * D, row, count, head.rows.Key(page));
    c.value_rows->EncodeRows(v_ND + static_cast<int64_t>(done) * D, row, count,
                             head.rows.Value(page));
    done += count;
    token += count;
  }
}

int KvCache::PagesToFreeze() const {
  const int64_t in_window = n_tokens_ - options_.n_sink - n_frozen_ * kPageTokens;
  if (in_window < options_.n_recent + kPageTokens) return 0;
  return static_cast<int>((in_window - options_.n_recent) / kPageTokens);
}

void KvCache::FreezeHead(int layer, int head_index, int n_pages) {
  const KvHeadCodecs& c = codecs_[Index(layer, head_index)];
  Head& head = heads_[Index(layer, head_index)];
  std::vector<float> rows(static_cast<std::size_t>(kPageTokens) * options_.head_dim);
  for (int i = 0; i < n_pages; ++i) {
    const int page = head.window[i];
    c.key_rows->DecodePage(head.rows.Key(page), kPageTokens, rows.data());
    c.key->EncodePage(rows.data(), kPageTokens, head.frozen.Key(n_frozen_ + i));
    c.value_rows->DecodePage(head.rows.Value(page), kPageTokens, rows.data());
    c.value->EncodePage(rows.data(), kPageTokens, head.frozen.Value(n_frozen_ + i));
  }
  head.free_rows.insert(head.free_rows.end(), head.window.begin(), head.window.begin() + n_pages);
  head.window.erase(head.window.begin(), head.window.begin() + n_pages);
}

void KvCache::CommitFreeze(int n_pages) { n_frozen_ += n_pages; }

void KvCache::Segments(int layer, int head_index, int n_uncommitted,
                       std::vector<KvSegment>* out) const {
  const KvHeadCodecs& c = codecs_[Index(layer, head_index)];
  const Head& head = heads_[Index(layer, head_index)];
  const int64_t total = n_tokens_ + n_uncommitted;
  out->clear();
  if (total <= 0) return;
  if (options_.n_sink > 0) {
    out->push_back({c.key_rows.get(), c.value_rows.get(), head.rows.Key(0), head.rows.Value(0), 0,
                    static_cast<int>(std::min<int64_t>(total, options_.n_sink))});
  }
  int64_t token = options_.n_sink;
  for (int64_t i = 0; i < n_frozen_; ++i, token += kPageTokens) {
    out->push_back(
        {c.key.get(), c.value.get(), head.frozen.Key(i), head.frozen.Value(i), token, kPageTokens});
  }
  for (std::size_t i = 0; token < total; ++i, token += kPageTokens) {
    out->push_back({c.key_rows.get(), c.value_rows.get(), head.rows.Key(head.window[i]),
                    head.rows.Value(head.window[i]), token,
                    static_cast<int>(std::min<int64_t>(total - token, kPageTokens))});
  }
}

Status KvCache::Truncate(int64_t n) {
  if (n < 0 || n > n_tokens_) {
    return OutOfRange("cache: expected a length between 0 and " + std::to_string(n_tokens_) +
                      ", found " + std::to_string(n));
  }
  // Frozen pages that stay whole; a page cut in its middle goes back into the window.
  const int64_t kept = std::clamp<int64_t>((n - options_.n_sink) / kPageTokens, 0, n_frozen_);
  const int64_t in_window = std::max<int64_t>(0, n - options_.n_sink - kept * kPageTokens);
  const bool thaw = kept < n_frozen_ && in_window > 0;
  std::vector<float> rows(static_cast<std::size_t>(kPageTokens) * options_.head_dim);
  const auto window_pages = static_cast<std::size_t>((in_window + kPageTokens - 1) / kPageTokens);
  for (std::size_t i = 0; i < heads_.size(); ++i) {
    Head& head = heads_[i];
    if (thaw) {
      // The cut lies in frozen territory, so the old window is gone and one page serves.
      head.free_rows.insert(head.free_rows.end(), head.window.begin(), head.window.end());
      head.window.clear();
      const int page = head.free_rows.empty() ? head.n_rows++ : head.free_rows.back();
      if (!head.free_rows.empty()) head.free_rows.pop_back();
      head.rows.Ensure(head.n_rows);
      const KvHeadCodecs& c = codecs_[i];
      const int count = static_cast<int>(in_window);
      c.key->DecodePage(head.frozen.Key(kept), count, rows.data());
      c.key_rows->EncodeRows(rows.data(), 0, count, head.rows.Key(page));
      c.value->DecodePage(head.frozen.Value(kept), count, rows.data());
      c.value_rows->EncodeRows(rows.data(), 0, count, head.rows.Value(page));
      head.window.push_back(page);
    } else {
      while (head.window.size() > window_pages) {
        head.free_rows.push_back(head.window.back());
        head.window.pop_back();
      }
    }
  }
  n_frozen_ = kept;
  n_tokens_ = n;
  return Status::Ok();
}

std::size_t KvCache::FrozenBytes() const {
  std::size_t bytes = 0;
  for (const Head& head : heads_) {
    bytes +=
        (head.frozen.key_bytes + head.frozen.value_bytes) * static_cast<std::size_t>(n_frozen_);
  }
  return bytes;
}

std::size_t KvCache::UsedBytes() const {
  const int64_t rows = n_tokens_ - n_frozen_ * kPageTokens;  // sink and window
  std::size_t bytes = FrozenBytes();
  for (const Head& head : heads_) {
    bytes += (head.rows.key_bytes + head.rows.value_bytes) * static_cast<std::size_t>(rows) /
             kPageTokens;
  }
  return bytes;
}

std::size_t KvCache::AllocatedBytes() const {
  std::size_t bytes = 0;
  for (const Head& head : heads_) {
    for (const PageStore* store : {&head.frozen, &head.rows}) {
      bytes +=
          store->slabs.size() * store->stride * static_cast<std::size_t>(store->pages_per_slab);
    }
  }
  return bytes;
}

}  // namespace phasor
