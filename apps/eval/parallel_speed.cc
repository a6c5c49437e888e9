#include "eval/parallel_speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/median.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/synthetic_fill.h"
#include "cache/kv_cache.h"
#include "engine/parallel_contexts.h"

namespace phasor::eval {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPrefixTokens = 64;
constexpr int kTimedTokens = 8;  // of the answer
constexpr int kFilledContexts = 32;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::vector<int32_t> RandomIds(int64_t n, int n_vocab, Rng& rng) {
  std::vector<int32_t> ids(static_cast<std::size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(n_vocab)));
  return ids;
}

struct Times {
  double sequential = 0, fresh = 0, cached = 0, query = 0, token = 0;  // milliseconds
};

class SpeedRun {
 public:
  SpeedRun(const LoadedModel& model, const ParallelSpeedOptions& options, int64_t total)
      : model_(model), options_(options), total_(total), rng_(options.seed) {}

  // One round over contexts that are really read.
  Result<Times> Read(int64_t length, int64_t* cached_read) {
    const auto ids = [&](int64_t n) { return RandomIds(n, model_.config().n_vocab, rng_); };
    PHASOR_ASSIGN_OR_RETURN(const auto prefix, NewSession(kPrefixTokens + length));
    PHASOR_RETURN_IF_ERROR(Append(*prefix, ids(kPrefixTokens)).status());
    std::vector<std::vector<int32_t>> texts;
    for (int64_t left = length; left > 0; left -= options_.context_tokens) {
      texts.push_back(ids(std::min(left, options_.context_tokens)));
    }
    query_ = ids(options_.query_tokens);
    std::vector<ParallelContext> contexts;
    std::vector<int32_t> all;
    for (const auto& text : texts) {
      contexts.push_back({.tokens = text});
      all.insert(all.end(), text.begin(), text.end());
    }
    all.insert(all.end(), query_.begin(), query_.end());
    Times times;
    PHASOR_ASSIGN_OR_RETURN(times.query, Alone(*prefix));
    PHASOR_ASSIGN_OR_RETURN(const auto plain, prefix->Fork());
    PHASOR_ASSIGN_OR_RETURN(times.sequential, Append(*plain, all));
    PHASOR_ASSIGN_OR_RETURN(const auto fresh, prefix->Fork());
    ParallelReport report;
    PHASOR_ASSIGN_OR_RETURN(times.fresh, AttachAndAsk(*fresh, contexts, &report));
    std::vector<ParallelContext> again;
    for (const TextSpan& span : report.contexts) again.push_back({.encoded = &span});
    PHASOR_ASSIGN_OR_RETURN(const auto cached, prefix->Fork());
    ParallelReport reused;
    PHASOR_ASSIGN_OR_RETURN(times.cached, AttachAndAsk(*cached, again, &reused));
    *cached_read = reused.n_read + options_.query_tokens;
    PHASOR_ASSIGN_OR_RETURN(times.token, PerToken(*cached));
    return times;
  }

  // A cache for Filled, which takes one round over it.
  Status Fill(int64_t length) {
    const int64_t prefix = options_.session.n_sink + kPageTokens;
    // So many more that everything in front of them is in pages.
    const int64_t n = prefix + length + options_.session.n_recent + kPageTokens;
    PHASOR_ASSIGN_OR_RETURN(filled_, NewSession(n + options_.session.n_batch));
    bench::SyntheticFillOptions fill;
    fill.n_tokens = n;
    fill.seed = options_.seed;
    fill.cancel = options_.cancel;
    fill.on_progress = [&](int64_t done, int64_t) { Report(done); };
    PHASOR_RETURN_IF_ERROR(bench::FillSynthetic(*filled_, fill));
    done_ += n;
    // FillSynthetic leaves the ids of what it did not read to the cache alone.
    chunk_ = RandomIds(options_.session.n_batch, model_.config().n_vocab, rng_);
    query_ = RandomIds(options_.query_tokens, model_.config().n_vocab, rng_);
    return Status::Ok();
  }
  Result<Times> Filled(int64_t length, int64_t* cached_read) {
    const int64_t prefix_tokens = options_.session.n_sink + kPageTokens;
    const int64_t n = FilledContextTokens(length);
    double at[4];  // a chunk at the prefix, behind one context, in the middle, at the end
    const int64_t depths[] = {0, n, length / 2, length};
    for (int i = 0; i < 4; ++i) {
      PHASOR_ASSIGN_OR_RETURN(at[i], ChunkAt(prefix_tokens + depths[i]));
    }
    const double n_chunks =
        static_cast<double>(length) / static_cast<double>(options_.session.n_batch);
    Times times;
    PHASOR_ASSIGN_OR_RETURN(const auto prefix, At(prefix_tokens));
    PHASOR_ASSIGN_OR_RETURN(times.query, Alone(*prefix));
    std::vector<KvSpan> spans;
    for (int64_t i = 0; i < length; i += n) {
      PHASOR_ASSIGN_OR_RETURN(
          spans.emplace_back(),
          filled_->cache().Slice(prefix_tokens + i, prefix_tokens + std::min(length, i + n)));
    }
    std::vector<TextSpan> texts;
    std::vector<ParallelContext> contexts;
    for (const KvSpan& span : spans) {
      texts.push_back({span, std::vector<int32_t>(static_cast<std::size_t>(span.n_tokens()), 0)});
    }
    for (const TextSpan& text : texts) contexts.push_back({.encoded = &text});
    ParallelReport report;
    PHASOR_ASSIGN_OR_RETURN(times.cached, AttachAndAsk(*prefix, contexts, &report));
    *cached_read = report.n_read + options_.query_tokens;
    PHASOR_ASSIGN_OR_RETURN(times.token, PerToken(*prefix));
    // Trapezoids: the time of a chunk is linear in its depth.
    times.sequential = n_chunks * (at[0] + 2 * at[2] + at[3]) / 4 + times.cached;
    times.fresh = n_chunks * (at[0] + at[1]) / 2 + times.cached;
    return times;
  }
  // Whole pages, and 32 of them make up the length or a little more.
  static int64_t FilledContextTokens(int64_t length) {
    const int64_t pages =
        (length + kFilledContexts * kPageTokens - 1) / kFilledContexts / kPageTokens;
    return std::max<int64_t>(1, pages) * kPageTokens;
  }

 private:
  Result<std::unique_ptr<Session>> NewSession(int64_t text_tokens) const {
    SessionOptions o = options_.session;
    o.n_ctx = text_tokens + options_.query_tokens + kTimedTokens;
    return Session::Create(model_, o);
  }
  void Report(int64_t done) const {
    if (options_.on_progress) options_.on_progress(std::min(total_, done_ + done), total_);
  }

  Result<double> Append(Session& session, std::span<const int32_t> tokens) {
    AppendOptions append;
    append.cancel = options_.cancel;
    append.on_progress = [&](int64_t done, int64_t) { Report(done); };
    const auto start = Clock::now();
    PHASOR_RETURN_IF_ERROR(session.Append(tokens, append));
    const double ms = MillisecondsSince(start);
    done_ += static_cast<int64_t>(tokens.size());
    return ms;
  }
  // The query on a text without contexts.
  Result<double> Alone(const Session& prefix) {
    PHASOR_ASSIGN_OR_RETURN(const auto fork, prefix.Fork());
    return Append(*fork, query_);
  }
  Result<double> AttachAndAsk(Session& session, std::span<const ParallelContext> contexts,
                              ParallelReport* report) {
    ParallelOptions parallel;
    parallel.cancel = options_.cancel;
    parallel.on_progress = [&](int64_t done, int64_t) { Report(done); };
    const auto start = Clock::now();
    PHASOR_ASSIGN_OR_RETURN(*report, AttachParallelContexts(session, contexts, parallel));
    const double attach_ms = MillisecondsSince(start);
    done_ += report->n_read;
    PHASOR_ASSIGN_OR_RETURN(const double query_ms, Append(session, query_));
    return attach_ms + query_ms;
  }
  Result<double> PerToken(Session& session) {
    const auto start = Clock::now();
    for (int i = 0; i < kTimedTokens; ++i) {
      PHASOR_RETURN_IF_ERROR(Append(session, std::span(query_).first(1)).status());
    }
    return MillisecondsSince(start) / kTimedTokens;
  }
  // The filled text up to a depth.
  Result<std::unique_ptr<Session>> At(int64_t depth) const {
    PHASOR_ASSIGN_OR_RETURN(auto fork, filled_->Fork());
    PHASOR_RETURN_IF_ERROR(fork->Truncate(depth));
    return fork;
  }
  Result<double> ChunkAt(int64_t depth) {
    PHASOR_ASSIGN_OR_RETURN(const auto session, At(depth));
    return Append(*session, chunk_);
  }

  const LoadedModel& model_;
  const ParallelSpeedOptions& options_;
  const int64_t total_;
  int64_t done_ = 0;
  Rng rng_;
  std::vector<int32_t> query_, chunk_;
  std::unique_ptr<Session> filled_;
};

Json Row(int64_t length, int64_t context_tokens, int64_t cached_read, bool filled,
         const ParallelSpeedOptions& options, const std::vector<Times>& rounds) {
  const auto median = [&](auto value) {
    std::vector<double> x;
    for (const Times& t : rounds) x.push_back(value(t));
    return Median(std::move(x));
  };
  const auto n_more = static_cast<double>(options.n_generate);
  return {{"tokens", length},
          {"context_tokens", context_tokens},
          {"query_tokens", options.query_tokens},
          {"n_generate", options.n_generate},
          {"filled", filled},
          {"cached_read", cached_read},
          {"sequential_ms", median([](const Times& t) { return t.sequential; })},
          {"fresh_ms", median([](const Times& t) { return t.fresh; })},
          {"cached_ms", median([](const Times& t) { return t.cached; })},
          {"query_ms", median([](const Times& t) { return t.query; })},
          {"token_ms", median([](const Times& t) { return t.token; })},
          {"fresh_speedup", median([](const Times& t) { return t.sequential / t.fresh; })},
          {"cached_speedup", median([](const Times& t) { return t.sequential / t.cached; })},
          {"cached_over_query", median([](const Times& t) { return t.cached / t.query; })},
          {"end_to_end_speedup", median([&](const Times& t) {
             return (t.sequential + n_more * t.token) / (t.cached + n_more * t.token);
           })}};
}

int64_t TotalTokens(const ParallelSpeedOptions& o) {
  int64_t total = 0;
  const int64_t asked = o.query_tokens + kTimedTokens;
  for (const int64_t length : o.lengths) {
    total += (2 * length + kPrefixTokens + 3 * o.query_tokens + asked) * o.n_rounds;
  }
  if (o.filled_tokens > 0) {
    total += o.filled_tokens + (4 * o.session.n_batch + o.query_tokens + asked) * o.n_rounds;
  }
  return total;
}

}  // namespace

Result<Json> MeasureParallelSpeed(const LoadedModel& model, const ParallelSpeedOptions& options) {
  if (options.query_tokens < 1 || options.context_tokens < 1 || options.n_rounds < 1) {
    return InvalidArgument(
        "parallel: expected at least one token of query and context and one round");
  }
  SpeedRun run(model, options, TotalTokens(options));
  Json out = Json::array();
  for (const int64_t length : options.lengths) {
    if (length < 1) {
      return InvalidArgument(
          fmt::format("parallel: expected lengths of at least 1, found {}", length));
    }
    std::vector<Times> rounds;
    int64_t cached_read = 0;
    for (int i = 0; i < options.n_rounds; ++i) {
      PHASOR_ASSIGN_OR_RETURN(rounds.emplace_back(), run.Read(length, &cached_read));
    }
    out.push_back(
        Row(length, std::min(length, options.context_tokens), cached_read, false, options, rounds));
  }
  if (options.filled_tokens > 0) {
    PHASOR_RETURN_IF_ERROR(run.Fill(options.filled_tokens));
    std::vector<Times> rounds;
    int64_t cached_read = 0;
    for (int i = 0; i < options.n_rounds; ++i) {
      PHASOR_ASSIGN_OR_RETURN(rounds.emplace_back(),
                              run.Filled(options.filled_tokens, &cached_read));
    }
    out.push_back(Row(options.filled_tokens, SpeedRun::FilledContextTokens(options.filled_tokens),
                      cached_read, true, options, rounds));
  }
  return out;
}

Table ParallelSpeedTable(const Json& results) {
  using Align = Table::Align;
  Table table({{"tokens", Align::kRight},
               {"of a context", Align::kRight},
               {"cache", Align::kLeft},
               {"read if cached", Align::kRight},
               {"sequential / fresh", Align::kRight},
               {"sequential / cached", Align::kRight},
               {"cached / query alone", Align::kRight},
               {"end to end", Align::kRight}});
  for (const Json& r : results) {
    const auto ratio = [&](const char* key) { return fmt::format("{:.2f}", r[key].get<double>()); };
    table.AddRow({r["tokens"].dump(), r["context_tokens"].dump(),
                  r["filled"].get<bool>() ? "filled" : "read", r["cached_read"].dump(),
                  ratio("fresh_speedup"), ratio("cached_speedup"), ratio("cached_over_query"),
                  ratio("end_to_end_speedup")});
  }
  return table;
}

}  // namespace phasor::eval
