#include "eval/retrieval.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/check.h"
#include "base/rng.h"
#include "base/table.h"
#include "ops/vector_ops.h"

namespace phasor::eval {
namespace {

constexpr int kBootstrapSamples = 10000;
constexpr double kTail = 0.025;  // on either side of the interval

void AddToken(std::span<const float> logits, int32_t target, RetrievalResult* result) {
  const auto top = std::max_element(logits.begin(), logits.end()) - logits.begin();
  ++result->n_tokens;
  result->n_right += top == target ? 1 : 0;
  result->logprob += logits[target] - LogSumExp(logits.data(), static_cast<int64_t>(logits.size()));
}

// Of a question, those that need not be read when `held` stands behind the stop. The last one must:
// its logits are wanted.
int64_t SharedTokens(std::span<const int32_t> question, std::span<const int32_t> held) {
  return std::mismatch(question.begin(), question.end() - 1, held.begin(), held.end()).first -
         question.begin();
}

class Reader {
 public:
  Reader(Session& session, const AskOptions& options) : session_(session), options_(options) {}

  Status Read(const Haystack& haystack, const HaystackStop& stop) {
    const int64_t begin = session_.n_tokens();
    if (begin == stop.n_tokens) return Status::Ok();
    AppendOptions append;  // as prefill does
    return Append({haystack.tokens.data() + begin, haystack.tokens.data() + stop.n_tokens},
                  std::move(append));
  }

  // Goes back no further than to where this question differs from the one before; questions and
  // answers are read as decode reads them.
  Status Ask(int64_t stop, const RetrievalCase& c, RetrievalResult* result) {
    result->distance = stop - c.end;
    const int64_t n_kept = SharedTokens(
        c.question, std::span(session_.tokens()).subspan(static_cast<std::size_t>(stop)));
    PHASOR_RETURN_IF_ERROR(session_.Truncate(stop + n_kept));
    std::vector<int32_t> tokens(c.question.begin() + n_kept, c.question.end());
    const auto n_question = static_cast<int64_t>(tokens.size());
    tokens.insert(tokens.end(), c.answer.begin(), c.answer.end() - 1);
    AppendOptions append;
    append.score_codes = true;
    append.on_logits = [&](int64_t i, std::span<const float> logits) {
      const int64_t place = i - (n_question - 1);
      if (place < 0) return;
      AddToken(logits, c.answer[static_cast<std::size_t>(place)], result);
      if (options_.keep != nullptr) {
        options_.keep->insert(options_.keep->end(), logits.begin(), logits.end());
      }
      if (options_.base == nullptr) return;
      PHASOR_CHECK(n_compared_ + logits.size() <= options_.base->size());
      result->kl += KlDivergence(options_.base->data() + n_compared_, logits.data(),
                                 static_cast<int64_t>(logits.size()));
      n_compared_ += logits.size();
    };
    return Append(tokens, std::move(append));
  }

 private:
  Status Append(std::span<const int32_t> tokens, AppendOptions append) {
    append.cancel = options_.cancel;
    int64_t reported = 0;
    append.on_progress = [&](int64_t done, int64_t) {
      if (options_.on_tokens) options_.on_tokens(done - reported);
      reported = done;
    };
    return session_.Append(tokens, append);
  }

  Session& session_;
  const AskOptions& options_;
  std::size_t n_compared_ = 0;  // numbers of options_.base
};

// Tokens that one type reads.
int64_t CountTokens(const std::vector<Haystack>& haystacks) {
  int64_t n = 0;
  for (const Haystack& h : haystacks) {
    n += static_cast<int64_t>(h.tokens.size());
    for (const HaystackStop& stop : h.stops) {
      std::span<const int32_t> held;
      for (const RetrievalCase& c : stop.cases) {
        n += static_cast<int64_t>(c.question.size() + c.answer.size()) - 1;
        n -= SharedTokens(c.question, held);
        held = c.question;
      }
    }
  }
  return n;
}

// Counts of all cases together, and the ratio of the sums to those of f16 with its interval.
void AddRatio(const std::string& name, std::span<const int> counts, std::span<const int> of_f16,
              Json* j) {
  const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const int64_t f16_sum = std::accumulate(of_f16.begin(), of_f16.end(), int64_t{0});
  (*j)[name + "_right"] = sum;
  (*j)["f16_" + name + "_right"] = f16_sum;
  for (const char* part : {"_ratio", "_ratio_low", "_ratio_high"}) (*j)[name + part] = nullptr;
  if (f16_sum == 0) return;
  const Interval interval = BootstrapRatio(counts, of_f16, /*seed=*/1);
  (*j)[name + "_ratio"] = static_cast<double>(sum) / static_cast<double>(f16_sum);
  (*j)[name + "_ratio_low"] = interval.low;
  (*j)[name + "_ratio_high"] = interval.high;
}

Json Summarize(const std::vector<RetrievalResult>& results,
               const std::vector<RetrievalResult>& base) {
  std::vector<int> exact, base_exact, tokens, base_tokens;
  int64_t n_tokens = 0, both = 0;
  double logprob = 0, base_logprob = 0, square = 0, kl = 0, kl_square = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    exact.push_back(results[i].exact() ? 1 : 0);
    base_exact.push_back(base[i].exact() ? 1 : 0);
    both += exact.back() * base_exact.back();
    tokens.push_back(results[i].n_right);
    base_tokens.push_back(base[i].n_right);
    n_tokens += results[i].n_tokens;
    logprob += results[i].logprob;
    base_logprob += base[i].logprob;
    square += (results[i].logprob - base[i].logprob) * (results[i].logprob - base[i].logprob);
    kl += results[i].kl;
    kl_square += results[i].kl * results[i].kl;
  }
  const auto n = static_cast<double>(results.size());
  // Standard error of the mean of n numbers.
  auto error = [n](double sum, double squares) {
    return n > 1 ? std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)) / n) : 0.0;
  };
  const double per_token = n / static_cast<double>(n_tokens);
  Json j = {{"cases", results.size()},
            {"tokens", n_tokens},
            {"both_exact", both},
            {"logprob", logprob / n},
            {"f16_logprob", base_logprob / n},
            {"logprob_error", error(logprob - base_logprob, square)},
            {"kl", kl / n * per_token},
            {"kl_error", error(kl, kl_square) * per_token}};
  AddRatio("exact", exact, base_exact, &j);
  AddRatio("token", tokens, base_tokens, &j);
  return j;
}

// A cache type and the session that reads every haystack with it.
struct TypeSession {
  CacheTypes types;
  std::unique_ptr<Session> session;
};

// f16 first.
Result<std::vector<TypeSession>> OpenSessions(const LoadedModel& model,
                                              const RetrievalOptions& options) {
  std::vector<CacheTypes> types = {{"f16", "f16"}};
  for (const CacheTypes& t : options.types) {
    if (t.k != "f16" || t.v != "f16") types.push_back(t);
  }
  const auto& depths = options.haystacks.depths;
  std::vector<TypeSession> sessions;
  for (const CacheTypes& t : types) {
    SessionOptions session = options.session;
    session.type_k = t.k;
    session.type_v = t.v;
    session.n_ctx = *std::max_element(depths.begin(), depths.end());
    TypeSession opened{.types = t, .session = nullptr};
    PHASOR_ASSIGN_OR_RETURN(opened.session, Session::Create(model, session));
    sessions.push_back(std::move(opened));
  }
  return sessions;
}

struct TypeRun {
  CacheTypes types;
  double page_bits = 0;
  std::map<int64_t, std::vector<RetrievalResult>> results;  // by depth
};

// One task with all cache types, stop by stop.
class TaskRun {
 public:
  TaskRun(std::string task, std::vector<Haystack> haystacks, std::span<const TypeSession> sessions)
      : task_(std::move(task)), haystacks_(std::move(haystacks)) {
    for (const TypeSession& s : sessions) {
      runs_.push_back({.types = s.types, .page_bits = 0, .results = {}});
    }
  }

  const std::vector<Haystack>& haystacks() const { return haystacks_; }

  // The first stop of a haystack clears the sessions. `on_tokens` gets what was read.
  Status Ask(std::size_t haystack, std::size_t stop, std::span<const TypeSession> sessions,
             const std::atomic<bool>* cancel, const std::function<void(int64_t)>& on_tokens) {
    const Haystack& h = haystacks_[haystack];
    const int64_t depth = h.stops[stop].depth;
    AnswerLogits of_f16;
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      Session& session = *sessions[i].session;
      AskOptions ask{.cancel = cancel, .on_tokens = on_tokens};
      if (i == 0) ask.keep = &of_f16;
      if (i > 0) ask.base = &of_f16;
      PHASOR_RETURN_IF_ERROR(AskAtStop(session, h, stop, ask, &runs_[i].results[depth]));
      runs_[i].page_bits = session.cache_stats().page_bits_per_element;
    }
    ++n_texts_[depth];
    n_all_texts_ += stop == 0 ? 1 : 0;
    return Status::Ok();
  }

  // The rows of every depth that has results, and those of all depths together.
  void AddRows(Json* out) const {
    const std::map<int64_t, std::vector<RetrievalResult>>& base = runs_[0].results;
    for (const auto& [depth, of_f16] : base) {
      for (const TypeRun& run : runs_) {
        out->push_back(Row(run, depth, n_texts_.at(depth), run.results.at(depth), of_f16));
      }
    }
    if (base.size() < 2) return;
    for (const TypeRun& run : runs_) {
      out->push_back(Row(run, nullptr, n_all_texts_, Together(run), Together(runs_[0])));
    }
  }

 private:
  static std::vector<RetrievalResult> Together(const TypeRun& run) {
    std::vector<RetrievalResult> all;
    for (const auto& [depth, results] : run.results) {
      all.insert(all.end(), results.begin(), results.end());
    }
    return all;
  }

  Json Row(const TypeRun& run, const Json& depth, int64_t n_texts,
           const std::vector<RetrievalResult>& results,
           const std::vector<RetrievalResult>& base) const {
    Json j = {{"task", task_},
              {"depth", depth},
              {"type_k", run.types.k},
              {"type_v", run.types.v},
              {"page_bits_per_element", run.page_bits},
              {"texts", n_texts}};
    j.update(Summarize(results, base));
    if (depth.is_null()) return j;
    for (const RetrievalResult& r : results) {
      j["answers"].push_back(
          {{"distance", r.distance}, {"right", r.n_right}, {"logprob", r.logprob}, {"kl", r.kl}});
    }
    return j;
  }

  std::string task_;
  std::vector<Haystack> haystacks_;
  std::vector<TypeRun> runs_;           // f16 first
  std::map<int64_t, int64_t> n_texts_;  // by depth
  int64_t n_all_texts_ = 0;
};

}  // namespace

Status AskAtStop(Session& session, const Haystack& haystack, std::size_t stop,
                 const AskOptions& options, std::vector<RetrievalResult>* results) {
  const HaystackStop& s = haystack.stops[stop];
  if (stop == 0) session.Clear();
  Reader reader(session, options);
  PHASOR_RETURN_IF_ERROR(reader.Read(haystack, s));
  for (const RetrievalCase& c : s.cases) {
    RetrievalResult result;
    PHASOR_RETURN_IF_ERROR(reader.Ask(s.n_tokens, c, &result));
    results->push_back(result);
  }
  return session.Truncate(s.n_tokens);
}

Interval BootstrapRatio(std::span<const int> counts, std::span<const int> of_f16, uint64_t seed) {
  PHASOR_CHECK(counts.size() == of_f16.size());
  PHASOR_CHECK(std::any_of(of_f16.begin(), of_f16.end(), [](int n) { return n > 0; }));
  Rng rng(seed);
  std::vector<double> ratios;
  while (ratios.size() < kBootstrapSamples) {
    int64_t sum = 0, f16_sum = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const std::size_t drawn = rng.Below(counts.size());
      sum += counts[drawn];
      f16_sum += of_f16[drawn];
    }
    if (f16_sum > 0) ratios.push_back(static_cast<double>(sum) / static_cast<double>(f16_sum));
  }
  std::sort(ratios.begin(), ratios.end());
  const auto cut = static_cast<std::size_t>(kTail * kBootstrapSamples);
  return {ratios[cut], ratios[ratios.size() - 1 - cut]};
}

Result<Json> EvaluateRetrieval(const LoadedModel& model, const std::string& text,
                               const RetrievalOptions& options) {
  HaystackOptions making = options.haystacks;
  making.n_sink = options.session.n_sink;
  making.n_recent = options.session.n_recent;
  PHASOR_ASSIGN_OR_RETURN(const auto sessions, OpenSessions(model, options));
  std::vector<TaskRun> tasks;
  std::size_t most_haystacks = 0;
  int64_t total = 0, done = 0;
  for (const std::string& task : options.tasks) {
    PHASOR_ASSIGN_OR_RETURN(auto haystacks, MakeHaystacks(model, text, task, making));
    most_haystacks = std::max(most_haystacks, haystacks.size());
    total += CountTokens(haystacks) * static_cast<int64_t>(sessions.size());
    tasks.emplace_back(task, std::move(haystacks), sessions);
  }
  const std::function<void(int64_t)> on_tokens = [&](int64_t n) {
    done += n;
    if (options.on_progress) options.on_progress(std::min(done, total), total);
  };
  Json out = Json::array();
  // The longest texts of all tasks come first, so that a report of half of a run says most.
  for (std::size_t i = 0; i < most_haystacks; ++i) {
    for (TaskRun& task : tasks) {
      if (i >= task.haystacks().size()) continue;
      for (std::size_t stop = 0; stop < task.haystacks()[i].stops.size(); ++stop) {
        PHASOR_RETURN_IF_ERROR(task.Ask(i, stop, sessions, options.cancel, on_tokens));
        out = Json::array();
        for (const TaskRun& t : tasks) t.AddRows(&out);
        if (options.on_result) options.on_result(out);
      }
    }
  }
  return out;
}

std::string RenderRetrievalTable(const Json& results, const std::string& format) {
  using Align = Table::Align;
  Table table({{"task", Align::kLeft},
               {"depth", Align::kRight},
               {"-ctk", Align::kLeft},
               {"-ctv", Align::kLeft},
               {"bits", Align::kRight},
               {"texts", Align::kRight},
               {"cases", Align::kRight},
               {"exact", Align::kRight},
               {"exact / f16", Align::kRight},
               {"95 %", Align::kLeft},
               {"tokens", Align::kRight},
               {"tokens / f16", Align::kRight},
               {"95 %", Align::kLeft},
               {"log prob", Align::kRight},
               {"- f16", Align::kRight},
               {"error", Align::kRight},
               {"KL", Align::kRight},
               {"error", Align::kRight}});
  for (const Json& r : results) {
    auto share = [&](const char* right, const char* of) {
      return fmt::format("{:.3f}", r[right].get<double>() / r[of].get<double>());
    };
    auto ratio = [&](const char* key) {
      return r[key].is_null() ? std::string("-") : fmt::format("{:.3f}", r[key].get<double>());
    };
    auto interval = [&](const char* low, const char* high) {
      return r[low].is_null() ? std::string("-") : ratio(low) + " to " + ratio(high);
    };
    const double logprob = r["logprob"], f16_logprob = r["f16_logprob"];
    table.AddRow({r["task"], r["depth"].is_null() ? "all" : r["depth"].dump(), r["type_k"],
                  r["type_v"], fmt::format("{:.2f}", r["page_bits_per_element"].get<double>()),
                  r["texts"].dump(), r["cases"].dump(), share("exact_right", "cases"),
                  ratio("exact_ratio"), interval("exact_ratio_low", "exact_ratio_high"),
                  share("token_right", "tokens"), ratio("token_ratio"),
                  interval("token_ratio_low", "token_ratio_high"), fmt::format("{:.3f}", logprob),
                  fmt::format("{:+.3f}", logprob - f16_logprob),
                  fmt::format("{:.3f}", r["logprob_error"].get<double>()),
                  fmt::format("{:.5f}", r["kl"].get<double>()),
                  fmt::format("{:.5f}", r["kl_error"].get<double>())});
  }
  return table.Render(*ParseTableFormat(format));
}

}  // namespace phasor::eval
