// Time of edits in a long text.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/rng.h"
#include "bench/synthetic_fill.h"
#include "cache/kv_cache.h"
#include "eval/edit_reuse.h"

namespace phasor::eval {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::vector<int32_t> RandomIds(int64_t n, int n_vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> ids(static_cast<std::size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(n_vocab));
  return ids;
}

struct Plan {
  int64_t n_tokens = 0, at = 0;
  std::vector<int32_t> edit;
};

// Inserts the edit and makes the logits of the last token; the median over rounds.
Result<Json> TimeEdit(const Session& session, const Plan& plan, double share,
                      const EditSpeedOptions& options) {
  std::vector<double> times;
  int64_t n_read = 0;
  for (int round = 0; round < options.n_rounds; ++round) {
    PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> fork, session.Fork());
    ReplaceOptions replace;
    replace.recompute = share;
    replace.cancel = options.cancel;
    const auto start = Clock::now();
    PHASOR_ASSIGN_OR_RETURN(const ReplaceReport report,
                            fork->Replace(plan.at, plan.at, plan.edit, replace));
    n_read = report.n_read;
    if (fork->logits().empty()) {
      PHASOR_RETURN_IF_ERROR(fork->RefreshLogits());
      ++n_read;
    }
    times.push_back(MillisecondsSince(start));
  }
  std::sort(times.begin(), times.end());
  return Json{{"n_tokens", plan.n_tokens + static_cast<int64_t>(plan.edit.size())},
              {"n_edit", plan.edit.size()},
              {"share", share},
              {"n_read", n_read},
              {"milliseconds", times[times.size() / 2]}};
}

// A session that has read a text of n tokens, and how long that took.
struct Reading {
  std::unique_ptr<Session> session;
  double milliseconds = 0;
};

Result<Reading> ReadAll(const LoadedModel& model, const SessionOptions& session, int64_t n,
                        const AppendOptions& append) {
  Reading reading;
  PHASOR_ASSIGN_OR_RETURN(reading.session, Session::Create(model, session));
  const auto start = Clock::now();
  PHASOR_RETURN_IF_ERROR(reading.session->Append(RandomIds(n, model.config().n_vocab, 1), append));
  reading.milliseconds = MillisecondsSince(start);
  return reading;
}

// The same from a filled cache. The time of a chunk is linear in its depth, so that the mean over
// the middles of equal parts is the mean over the text.
Result<Reading> SampleReading(const LoadedModel& model, const SessionOptions& options, int64_t n,
                              const AppendOptions& append) {
  constexpr int kSamples = 4;
  const int n_vocab = model.config().n_vocab;
  PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> filler, Session::Create(model, options));
  bench::SyntheticFillOptions fill;
  fill.n_tokens = n;
  fill.cancel = append.cancel;
  PHASOR_RETURN_IF_ERROR(bench::FillSynthetic(*filler, fill));
  PHASOR_ASSIGN_OR_RETURN(KvSpan kv, filler->cache().Slice(0, n));
  SessionOptions same_store = options;
  same_store.store = filler->store();
  Reading reading;
  PHASOR_ASSIGN_OR_RETURN(reading.session, Session::Create(model, same_store));
  PHASOR_RETURN_IF_ERROR(reading.session->Attach({std::move(kv), RandomIds(n, n_vocab, 1)},
                                                 {.position = {}, .same_left_context = true}));
  const int64_t n_chunk = std::min<int64_t>(options.n_batch, n / (2 * kSamples));
  const std::vector<int32_t> chunk = RandomIds(n_chunk, n_vocab, 3);
  for (int i = 0; i < kSamples; ++i) {
    PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> fork, reading.session->Fork());
    PHASOR_RETURN_IF_ERROR(fork->Truncate((2 * i + 1) * n / (2 * kSamples) - n_chunk / 2));
    const auto start = Clock::now();
    AppendOptions chunk_options;
    chunk_options.cancel = append.cancel;
    PHASOR_RETURN_IF_ERROR(fork->Append(chunk, chunk_options));
    reading.milliseconds += MillisecondsSince(start);
    if (append.on_progress) append.on_progress((i + 1) * n / kSamples, n);
  }
  reading.milliseconds *= static_cast<double>(n) / static_cast<double>(kSamples * n_chunk);
  return reading;
}

}  // namespace

Result<Json> MeasureEditSpeed(const LoadedModel& model, const EditSpeedOptions& options) {
  Json out = Json::array();
  int64_t total = 0, done = 0;
  for (const int64_t n : options.n_tokens) total += n;
  const int n_vocab = model.config().n_vocab;
  for (const int64_t n : options.n_tokens) {
    // The edited text has n tokens.
    const auto n_edit =
        std::clamp<int64_t>(std::llround(options.edit_share * static_cast<double>(n)), 1, n - 1);
    Plan plan{.n_tokens = n - n_edit, .at = 0, .edit = RandomIds(n_edit, n_vocab, 2)};
    plan.at = std::llround(options.depth * static_cast<double>(plan.n_tokens));
    SessionOptions session_options = options.session;
    session_options.n_ctx = n;
    AppendOptions append;
    append.cancel = options.cancel;
    append.on_progress = [&](int64_t chunk_end, int64_t) {
      if (options.on_progress) options.on_progress(done + chunk_end, total);
    };
    // Reading n tokens is timed, n_edit of them as the end; then those are forgotten.
    PHASOR_ASSIGN_OR_RETURN(const Reading reading, (options.sampled ? SampleReading : ReadAll)(
                                                       model, session_options, n, append));
    Session& session = *reading.session;
    done += n;
    PHASOR_RETURN_IF_ERROR(session.Truncate(plan.n_tokens));
    for (const double share : options.shares) {
      PHASOR_ASSIGN_OR_RETURN(Json row, TimeEdit(session, plan, share, options));
      const auto time = row["milliseconds"].get<double>();
      row["full_milliseconds"] = reading.milliseconds;
      row["speedup"] = reading.milliseconds / time;
      row["time_saved"] = 1 - time / reading.milliseconds;
      out.push_back(std::move(row));
    }
  }
  return out;
}

}  // namespace phasor::eval
