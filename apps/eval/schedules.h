// Perplexity past the trained context, one position schedule after the other.
//
// Every schedule reads the same windows with the same cache types; what differs is the phase table.
// The trained context W is RopeParams::original_context of the model (n_ctx_train where a file says
// nothing else). Tokens are scored by the position of the predicted token: in two halves up to W,
// in quarters of W beyond.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/table.h"
#include "eval/kld.h"

namespace phasor::eval {

// What a schedule is set to for n_ctx tokens: the model's own settings, with factor n_ctx / W where
// the method reads one (a longrope model keeps its own) and 1 for the giraffe methods, whose papers
// change the basis alone.
// Attention factors are the methods' defaults.
RopeParams ExtensionSchedule(const std::string& method, const RopeParams& own, int64_t n_ctx);

struct ScheduleEvalOptions {
  SessionOptions session;  // n_ctx > 0, cache types, n_sink, n_recent; rope is set per schedule
  std::vector<std::string> methods;  // position method ids
  // Of longrope, instead of the model's own lists; empty: those, where it has some.
  std::vector<float> short_factors, long_factors;  // [n_rot / 2]
  std::function<void(int64_t done, int64_t total)>
      on_progress;  // in tokens, all schedules together
  const std::atomic<bool>* cancel = nullptr;
};

struct ScheduleScores {
  RopeParams rope;
  std::string refused;  // why the model cannot run it (longrope without factors); else empty
  std::vector<TokenScore> tokens;
};

// kNotFound for an unknown id; a method that lacks what only a file can give is listed as refused.
Result<std::vector<ScheduleScores>> EvaluateSchedules(
    const LoadedModel& model, const std::vector<std::vector<int32_t>>& windows,
    const ScheduleEvalOptions& options);

// One object per schedule: method, factor, ppl_inside (up to W), ppl_past, ppl_growth (their
// ratio; both 0 without tokens), and by_position: from, to, tokens, nll, ppl, ppl_error.
Json ScheduleReport(const std::vector<ScheduleScores>& scores, int64_t trained_context);
// One row per schedule that ran, one column per bucket of positions.
Table ScheduleTable(const Json& report);
// "not run: longrope (...)" lines for schedules that were refused; empty otherwise.
std::string RefusedSchedules(const Json& report);

}  // namespace phasor::eval
