#include "bench/attention_time.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <system_error>

#include "attention/attention.h"
#include "base/aligned.h"
#include "base/cancel.h"
#include "base/median.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "bench/memory.h"
#include "cache/kv_cache.h"
#include "kvcodec/kvcodec.h"
#include "kvcodec/polar.h"
#include "ops/matmul_peak_avx512.h"
#include "ops/vector_ops.h"
#include "registry/kv_codec_table.h"
#include "simd/cpu.h"

namespace phasor::bench {
namespace {

constexpr int kStreamHeads = 8;
// Each holds its part of the pages, so that a call is short and one of many meets a quiet moment;
// by the time a layer's turn comes again, the others have driven it out of the caches.
constexpr int kStreamLayers = 16;
constexpr int kDistinctPages = 16;
constexpr int64_t kChunkPages = 8;  // appended and frozen at a time
constexpr int kCachedPasses = 8;    // per round; a pass over the L2 cache is short

double NanosecondsOf(const std::function<void()>& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

double BestOf(int n, const std::function<void()>& fn) {
  double best = INFINITY;
  for (int i = 0; i < n; ++i) best = std::min(best, NanosecondsOf(fn));
  return best;
}

bool Interrupted() { return InterruptFlag::flag().load(); }
Status Stopped() { return Cancelled("bench: stopped by Ctrl-C"); }

// Widths as calibration gives them: from 1.5 bits above the mean to 1.5 below, four channels alike.
std::vector<uint8_t> SpreadWidths(int mean, int head_dim) {
  std::vector<uint8_t> width_D;
  const int n_quads = (head_dim + 3) / 4;
  for (int d = 0; d < head_dim; ++d) {
    const double place = (d / 4 + 0.5) / n_quads;
    width_D.push_back(static_cast<uint8_t>(std::lround(mean + 3 * (0.5 - place))));
  }
  return width_D;
}

// Widths of `polar` as calibration of the default model mixes them (4.15 bits per element with
// metadata; shares to 1/32), strong pairs first.
std::vector<uint8_t> MixedPolarClasses(int head_dim) {
  struct Share {
    PolarWidth width;
    int n;
  };
  constexpr Share kShares[] = {{{5, 7}, 2}, {{4, 6}, 4}, {{5, 5}, 2}, {{3, 5}, 11},
                               {{4, 4}, 2}, {{2, 4}, 8}, {{3, 3}, 1}, {{1, 3}, 2}};
  std::vector<uint8_t> one_of_32;
  for (const Share& share : kShares) {
    for (int c = 0; c < kNumPolarClasses; ++c) {
      if (kPolarClasses[c].r_bits == share.width.r_bits &&
          kPolarClasses[c].a_bits == share.width.a_bits) {
        one_of_32.insert(one_of_32.end(), static_cast<std::size_t>(share.n),
                         static_cast<uint8_t>(c));
      }
    }
  }
  std::vector<uint8_t> class_P;
  const int n_pairs = (head_dim + 1) / 2;
  for (int j = 0; j < n_pairs; ++j) {
    class_P.push_back(one_of_32[static_cast<std::size_t>(j) * one_of_32.size() / n_pairs]);
  }
  return class_P;
}

// Random rows that all caches of one head size share. Channels of keys are as strong as their
// widths say, so that steps are alike and scores have a deviation near 1.5.
struct Rows {
  explicit Rows(int head_dim) {
    const std::vector<uint8_t> width_D = SpreadWidths(4, head_dim);
    Rng rng(1);
    const int n = kDistinctPages * kPageTokens * head_dim;
    for (int i = 0; i < n; ++i) {
      const float size = std::exp2(static_cast<float>(width_D[i % head_dim]) - 4);
      key.push_back(size * static_cast<float>(rng.Normal()));
      value.push_back(static_cast<float>(rng.Normal()));
    }
    // The beginning again, so that a chunk may start at any page.
    const auto chunk = static_cast<std::size_t>(kChunkPages) * kPageTokens * head_dim;
    for (std::vector<float>* x : {&key, &value}) {
      for (std::size_t i = 0; i < chunk; ++i) x->push_back((*x)[i]);
    }
  }
  std::vector<float> key, value;  // [(kDistinctPages + kChunkPages) * kPageTokens, D]
};

Result<std::unique_ptr<KvCache>> MakeCache(const AttentionTimeOptions& o, const KvTypes& types,
                                           int head_dim, int n_layers, int n_heads) {
  std::vector<float> omega_P;
  for (int j = 0; j < head_dim / 2; ++j) {
    omega_P.push_back(static_cast<float>(std::pow(10000.0, -2.0 * j / head_dim)));
  }
  std::vector<uint8_t> classes;
  if (types.k == "frame4") classes = SpreadWidths(4, head_dim);
  if (types.k == "frame3") classes = SpreadWidths(3, head_dim);
  if (types.k == kPolarKvCodec.id && o.mixed_polar) classes = MixedPolarClasses(head_dim);
  std::vector<KvHeadCodecs> codecs;
  for (int i = 0; i < n_layers * n_heads; ++i) {
    KvCodecParams k, v;
    k.head_dim = v.head_dim = head_dim;
    k.n_rot = v.n_rot = head_dim / 2 * 2;
    k.omega_P = omega_P;
    k.classes = classes;
    v.role = KvRole::kValue;
    KvHeadCodecs c;
    PHASOR_ASSIGN_OR_RETURN(c.key, MakeKvCodec(types.k, k));
    PHASOR_ASSIGN_OR_RETURN(c.value, MakeKvCodec(types.v, v));
    PHASOR_ASSIGN_OR_RETURN(c.key_rows, MakeRowKvCodec("f16", k));
    PHASOR_ASSIGN_OR_RETURN(c.value_rows, MakeRowKvCodec("f16", v));
    codecs.push_back(std::move(c));
  }
  return std::make_unique<KvCache>(KvCacheOptions{n_layers, n_heads, head_dim, 0, 0},
                                   std::move(codecs));
}

// Pages of one head.
int64_t CachedPages(const KvCache& cache, int64_t bytes) {
  const KvHeadCodecs& c = cache.codecs(0, 0);
  const auto page = static_cast<int64_t>(c.key->PageBytes() + c.value->PageBytes());
  return std::max<int64_t>(4, bytes / page);
}
// The same for all pairs: calls of equal length meet an interruption equally often.
int64_t StreamPages(int head_dim, int64_t f16_bytes) {
  const int64_t token = int64_t{4} * head_dim * kStreamLayers * kStreamHeads;
  return std::max<int64_t>(1, f16_bytes / token / kPageTokens);
}

// Frozen pages, and one more token that is appended but not committed: the one that attends.
Status Fill(int64_t n_pages, const Rows& rows, ThreadPool& pool, KvCache* cache) {
  const int n_heads = cache->options().n_kv_heads, D = cache->options().head_dim;
  const int n_all = n_heads * cache->options().n_layers;
  for (int64_t page = 0; page <= n_pages; page += kChunkPages) {
    if (Interrupted()) return Stopped();
    const bool last = page + kChunkPages > n_pages;
    const int whole = static_cast<int>(last ? n_pages - page : kChunkPages);
    auto append = [&](int n_tokens) {
      pool.ParallelFor(n_all, 1, [&](int64_t begin, int64_t end) {
        for (int64_t h = begin; h < end; ++h) {
          const int layer = static_cast<int>(h) / n_heads, head = static_cast<int>(h) % n_heads;
          const std::ptrdiff_t at = (page + h) % kDistinctPages * kPageTokens * D;
          const std::ptrdiff_t n = static_cast<std::ptrdiff_t>(n_tokens) * D;
          std::vector<float> k(rows.key.begin() + at, rows.key.begin() + at + n);
          std::vector<float> v(rows.value.begin() + at, rows.value.begin() + at + n);
          cache->AppendHead(layer, head, k.data(), v.data(), n_tokens);
        }
      });
    };
    if (whole > 0) {
      const int n = whole * kPageTokens;
      PHASOR_RETURN_IF_ERROR(cache->Reserve(n));
      append(n);
      cache->CommitAppend(n);
      cache->Freeze(pool);
    }
    if (last) {
      PHASOR_RETURN_IF_ERROR(cache->Reserve(1));
      append(1);
    }
  }
  return Status::Ok();
}

// One pair at one head size: a cache that streams and one that stays in L2.
struct Subject {
  KvTypes types;
  std::unique_ptr<KvCache> stream, cached;
};

// Minimum times of one subject with one number of query heads, and per round what it read from
// memory (its median call) and what plain reads beside it gave, 10^9 bytes per second.
struct Best {
  double score = INFINITY, softmax = INFINITY, accumulate = INFINITY;
  double cached = INFINITY, stream = INFINITY;
  std::vector<double> stream_ns, read_gb_s;
};

class Meter {
 public:
  Meter(int head_dim, int group, ThreadPool& pool, MemoryReader& reader)
      : D_(head_dim), g_(group), pool_(pool), reader_(reader) {
    Rng rng(2);
    q_.resize(static_cast<std::size_t>(kStreamHeads) * g_ * D_);
    for (float& x : q_) x = static_cast<float>(rng.Normal());
    rotated_.Resize(q_.size());
    out_.Resize(q_.size());
  }

  void Round(const Subject& s, Best* best) {
    RunSteps(*s.cached, best);
    best->cached = std::min(best->cached, Loop(*s.cached, 0, one_, kCachedPasses));
    const double before = reader_.Read();
    std::vector<double> calls;
    for (int layer = 0; layer < kStreamLayers; ++layer) {
      calls.push_back(Loop(*s.stream, layer, pool_, 1));
      best->stream = std::min(best->stream, calls.back());
    }
    best->read_gb_s.push_back((before + reader_.Read()) / 2);
    best->stream_ns.push_back(Median(calls));
  }

 private:
  // Thread time per token and KV head of one call of Attend.
  double Loop(const KvCache& cache, int layer, ThreadPool& pool, int n_passes) {
    const int n_heads = cache.options().n_kv_heads;
    const AttentionShape shape = {.n_heads = n_heads * g_,
                                  .n_kv_heads = n_heads,
                                  .head_dim = D_,
                                  .scale = 1.0f / std::sqrt(static_cast<float>(D_))};
    const auto attend = [&] {
      std::copy(q_.begin(), q_.begin() + static_cast<std::ptrdiff_t>(n_heads) * g_ * D_,
                rotated_.data());
      Attend(shape, cache, layer, 1, rotated_.data(), out_.data(), scratch_, pool);
    };
    if (n_passes > 1) attend();  // brings the pages into the cache
    const auto n_tokens = static_cast<double>(cache.n_tokens() * n_heads);
    return BestOf(n_passes, attend) * pool.size() / n_tokens;
  }

  // Scores, softmax and values one after the other over the pages of the only head.
  void RunSteps(const KvCache& cache, Best* best) {
    std::vector<KvSegment> pages;
    cache.Segments(0, 0, 0, &pages);
    const KvCodec& key = *pages[0].key_codec;
    const KvCodec& value = *pages[0].value_codec;
    std::copy(q_.begin(), q_.begin() + static_cast<std::ptrdiff_t>(g_) * D_, rotated_.data());
    if (key.HasRotation()) key.Rotate(rotated_.data(), g_);
    Scale(1.0f / std::sqrt(static_cast<float>(D_)), static_cast<int64_t>(g_) * D_, rotated_.data());
    prepared_.Resize(key.PreparedQueryBytes(g_));
    key.PrepareQuery(rotated_.data(), g_, prepared_.data());
    const std::size_t per_page = static_cast<std::size_t>(g_) * kPageTokens;
    scores_.Resize(per_page * pages.size());
    weights_.Resize(scores_.size());
    const double n_tokens = static_cast<double>(pages.size()) * kPageTokens;
    const auto score = [&] {
      for (std::size_t i = 0; i < pages.size(); ++i) {
        key.ScorePage(prepared_.data(), g_, pages[i].key_page, kPageTokens,
                      scores_.data() + i * per_page);
      }
    };
    score();
    best->score = std::min(best->score, BestOf(kCachedPasses, score) / n_tokens);
    // A page of a longer context, whose largest score stands elsewhere.
    const auto n_scores = static_cast<int64_t>(scores_.size());
    const float max = MaxOf(scores_.data(), n_scores, -INFINITY) + 1.0f;
    const auto softmax = [&] {
      FloatRow rows[4];  // as many pages together as the loop takes
      for (std::size_t at = 0; at < weights_.size();) {
        std::size_t n = 0;
        for (; n < std::size(rows) && at < weights_.size(); ++n, at += kPageTokens) {
          rows[n] = {weights_.data() + at, kPageTokens};
        }
        sum_ = sum_ + MaxOf({rows, n}, max);
        sum_ = sum_ + ExpSum({rows, n}, max);
      }
    };
    for (int i = 0; i < kCachedPasses; ++i) {  // it overwrites the scores
      std::copy_n(scores_.data(), scores_.size(), weights_.data());
      best->softmax = std::min(best->softmax, NanosecondsOf(softmax) / n_tokens);
    }
    const auto accumulate = [&] {
      for (std::size_t i = 0; i < pages.size(); ++i) {
        value.AccumulatePage(weights_.data() + i * per_page, g_, pages[i].value_page, kPageTokens,
                             out_.data());
      }
    };
    std::fill_n(out_.data(), static_cast<std::ptrdiff_t>(g_) * D_, 0.0f);
    accumulate();
    best->accumulate = std::min(best->accumulate, BestOf(kCachedPasses, accumulate) / n_tokens);
  }

  const int D_, g_;
  ThreadPool& pool_;
  MemoryReader& reader_;
  ThreadPool one_{1};
  AttentionScratch scratch_;
  std::vector<float> q_;  // [KV heads, g, D]
  AlignedBuffer<float> rotated_, out_, scores_, weights_;
  AlignedBuffer<std::byte> prepared_;
  volatile float sum_ = 0;
};

double PeakProducts() {
#if defined(__x86_64__)
  if (!IsAvx512(ActiveCpuLevel())) return 0;
  constexpr int kRounds = 20000;
  volatile int64_t sink = 0;
  const double ns = BestOf(20, [&] { sink = sink + RunDotProductPeak(kRounds); });
  return 16.0 * 64 * kRounds / ns;
#else
  return 0;
#endif
}

// All pairs at one head size.
class HeadSize {
 public:
  HeadSize(const AttentionTimeOptions& o, int head_dim, ThreadPool& pool, MemoryReader& reader,
           ProgressBar* bar, int64_t* done)
      : o_(o), D_(head_dim), pool_(pool), reader_(reader), bar_(bar), done_(done) {}

  Status Run(const std::vector<KvTypes>& types, AttentionTimes* out) {
    const Rows rows(D_);
    for (const KvTypes& t : types) {
      Subject s{t, nullptr, nullptr};
      auto stream = MakeCache(o_, t, D_, kStreamLayers, kStreamHeads);
      if (!stream.ok() && stream.status().code() == StatusCode::kUnsupported) {
        out->unsupported.push_back(
            fmt::format("{}:{} at head size {}: {}", t.k, t.v, D_, stream.status().message()));
        continue;
      }
      if (!stream.ok()) return stream.status();
      s.stream = std::move(stream).value();
      PHASOR_ASSIGN_OR_RETURN(s.cached, MakeCache(o_, t, D_, 1, 1));
      PHASOR_RETURN_IF_ERROR(
          Fill(CachedPages(*s.cached, o_.cached_bytes), rows, pool_, s.cached.get()));
      PHASOR_RETURN_IF_ERROR(
          Fill(StreamPages(D_, o_.f16_stream_bytes), rows, pool_, s.stream.get()));
      subjects_.push_back(std::move(s));
      bar_->Set(++*done_);
    }
    for (int g : o_.groups) PHASOR_RETURN_IF_ERROR(RunGroup(g, out));
    return Status::Ok();
  }

 private:
  Status RunGroup(int g, AttentionTimes* out) {
    Meter meter(D_, g, pool_, reader_);
    std::vector<Best> best(subjects_.size());
    for (int round = 0; round < o_.n_rounds; ++round) {
      for (std::size_t i = 0; i < subjects_.size(); ++i) {
        if (Interrupted()) return Stopped();
        meter.Round(subjects_[i], &best[i]);
        bar_->Set(++*done_);
      }
    }
    for (std::size_t i = 0; i < subjects_.size(); ++i) {
      const KvHeadCodecs& c = subjects_[i].stream->codecs(0, 0);
      const Best& b = best[i];
      const double bytes =
          static_cast<double>(c.key->PageBytes() + c.value->PageBytes()) / kPageTokens;
      const double all_bytes = bytes * pool_.size();
      std::vector<double> shares;
      for (std::size_t r = 0; r < b.stream_ns.size(); ++r) {
        shares.push_back(all_bytes / b.stream_ns[r] / b.read_gb_s[r]);
        out->read_gb_s = std::max(out->read_gb_s, b.read_gb_s[r]);
      }
      out->rows.push_back({subjects_[i].types, D_, g, bytes, b.score, b.softmax, b.accumulate,
                           b.cached, b.stream, all_bytes / b.stream, Median(b.read_gb_s),
                           Median(shares), best[0].cached / b.cached, best[0].stream / b.stream});
    }
    return Status::Ok();
  }

  const AttentionTimeOptions& o_;
  const int D_;
  ThreadPool& pool_;
  MemoryReader& reader_;
  ProgressBar* bar_;
  int64_t* done_;
  std::vector<Subject> subjects_;  // f16:f16 first, which exists at every head size
};

Result<AttentionTimes> Measure(const AttentionTimeOptions& o) {
  std::vector<KvTypes> types = {{"f16", "f16"}};
  for (const KvTypes& t : o.types) {
    if (t.k != "f16" || t.v != "f16") types.push_back(t);
    // Before anything is filled: an id that is not there.
    auto made = MakeCache(o, t, o.head_dims.at(0), 1, 1);
    if (!made.ok() && made.status().code() != StatusCode::kUnsupported) return made.status();
  }
  ThreadPool pool(o.n_threads > 0 ? o.n_threads : DefaultThreadCount());
  AttentionTimes out;
  out.n_threads = pool.size();
  out.mixed_polar = o.mixed_polar;
  if (getloadavg(&out.load, 1) != 1) out.load = -1;
  PHASOR_ASSIGN_OR_RETURN(auto reader, MemoryReader::Make(o.bandwidth_buffer_mib, pool));
  out.products_per_ns = PeakProducts();
  {
    const auto n_steps =
        static_cast<int64_t>(types.size() * o.head_dims.size() *
                             (1 + o.groups.size() * static_cast<std::size_t>(o.n_rounds)));
    ProgressBar bar("attention", n_steps, "steps");
    int64_t done = 0;
    for (int head_dim : o.head_dims) {
      HeadSize size(o, head_dim, pool, *reader, &bar, &done);
      PHASOR_RETURN_IF_ERROR(size.Run(types, &out));
    }
  }
  out.products_per_ns = std::max(out.products_per_ns, PeakProducts());
  return out;
}

}  // namespace

Result<AttentionTimes> MeasureAttentionTime(const AttentionTimeOptions& options) {
  try {
    return Measure(options);
  } catch (const std::system_error& e) {
    return ResourceExhausted(std::string("threads: cannot start: ") + e.what());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("bench: no memory for the caches");
  }
}

Result<std::vector<KvTypes>> ParseKvTypes(const std::vector<std::string>& pieces) {
  std::vector<KvTypes> out;
  for (const std::string& piece : pieces) {
    const std::size_t colon = piece.find(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == piece.size()) {
      return InvalidArgument("--types: expected K:V, found '" + piece + "'");
    }
    out.push_back({piece.substr(0, colon), piece.substr(colon + 1)});
  }
  return out;
}

}  // namespace phasor::bench
