#include "eval/edit_reuse.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <numeric>

#include "cache/kv_cache.h"
#include "ops/vector_ops.h"

namespace phasor::eval {
namespace {

using Ranges = std::vector<std::pair<int64_t, int64_t>>;
using Tokens = std::vector<int32_t>;

constexpr int kMostLineTokens = 32;
// The second layer: the first in which keys and values depend on other tokens.
constexpr int kDeviationLayer = 1;

class Stopwatch {
 public:
  double Milliseconds() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_)
        .count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int64_t Top(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

// Blocks of the rest, the last one shorter; chosen blocks as ranges that do not touch.
Ranges Join(const std::vector<bool>& chosen, int64_t n_rest) {
  Ranges ranges;
  for (std::size_t b = 0; b < chosen.size(); ++b) {
    if (!chosen[b]) continue;
    const int64_t begin = static_cast<int64_t>(b) * kEditBlockTokens;
    const int64_t end = std::min(begin + kEditBlockTokens, n_rest);
    if (!ranges.empty() && ranges.back().second == begin) {
      ranges.back().second = end;
    } else {
      ranges.push_back({begin, end});
    }
  }
  return ranges;
}

// A fresh reading of the edited text: the yardstick.
struct Yardstick {
  std::unique_ptr<Session> session;  // at the end of the text
  std::vector<float> logits;         // [n_continuation, vocab]
  Tokens line;                       // greedy, with the token that ends it
  std::vector<float> values;         // of kDeviationLayer [tokens, KV heads * D]
  double milliseconds = 0;
};

class Evaluator {
 public:
  Evaluator(const LoadedModel& model, const EditEvalOptions& options)
      : model_(model),
        options_(options),
        vocab_(static_cast<std::size_t>(model.config().n_vocab)),
        value_width_(static_cast<std::size_t>(model.config().n_kv_heads) *
                     static_cast<std::size_t>(model.config().head_dim)),
        value_layer_(std::min(kDeviationLayer, model.config().n_layers - 1)) {
    wants_values_ = std::any_of(options.methods.begin(), options.methods.end(),
                                [](const EditMethod& m) { return m.name == "deviating"; });
  }

  Status Run(const std::vector<EditDocument>& documents, std::vector<EditResult>* results) {
    for (const EditDocument& d : documents) {
      total_ += 1 + static_cast<int64_t>(d.edits.size() * (1 + options_.methods.size()));
    }
    for (const EditDocument& d : documents) {
      Yardstick fresh;
      PHASOR_RETURN_IF_ERROR(ReadFresh(d, &fresh));
      for (const SourceEdit& edit : d.edits) PHASOR_RETURN_IF_ERROR(Edit(d, edit, fresh, results));
    }
    return Status::Ok();
  }

 private:
  Status Step() {
    if (options_.on_progress) options_.on_progress(++done_, total_);
    if (options_.cancel != nullptr && options_.cancel->load()) {
      return Cancelled("edit: stopped by Ctrl-C");
    }
    return Status::Ok();
  }

  // Appends, and keeps the values of one layer behind those in *values, if that is not null.
  Status Read(Session& session, std::span<const int32_t> tokens, std::vector<float>* values) {
    const AttentionObserver observer = [&](int layer, int n, const float* q_THD, const float* k_THD,
                                           const float* v_THD) {
      if (layer == value_layer_) values->insert(values->end(), v_THD, v_THD + n * value_width_);
    };
    AppendOptions append;
    append.cancel = options_.cancel;
    if (values != nullptr && wants_values_) append.observer = &observer;
    return session.Append(tokens, append);
  }

  Status ReadFresh(const EditDocument& d, Yardstick* fresh) {
    SessionOptions session = options_.session;
    int64_t most = 0;
    for (const SourceEdit& e : d.edits) {
      most = std::max(most, static_cast<int64_t>(e.before.size()));
    }
    session.n_ctx =
        static_cast<int64_t>(d.tokens.size() + d.continuation.size()) + most + kMostLineTokens;
    PHASOR_ASSIGN_OR_RETURN(fresh->session, Session::Create(model_, session));
    const Stopwatch watch;
    PHASOR_RETURN_IF_ERROR(Read(*fresh->session, d.tokens, &fresh->values));
    fresh->milliseconds = watch.Milliseconds();
    fresh->logits.resize(d.continuation.size() * vocab_);
    PHASOR_RETURN_IF_ERROR(
        Predict(*fresh->session, d.continuation, [&](int64_t i, std::span<const float> logits) {
          std::copy(logits.begin(), logits.end(),
                    fresh->logits.begin() + i * static_cast<int64_t>(vocab_));
        }));
    PHASOR_RETURN_IF_ERROR(GreedyLine(*fresh->session, &fresh->line));
    return Step();
  }

  // Calls on_logits(i) with the prediction of tokens[i] for all i, possibly from several threads.
  // The session stays where it was; it must have logits.
  Status Predict(const Session& session, std::span<const int32_t> tokens,
                 const std::function<void(int64_t, std::span<const float>)>& on_logits) {
    on_logits(0, session.logits());
    if (tokens.size() < 2) return Status::Ok();
    PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> fork, session.Fork());
    AppendOptions append;
    append.cancel = options_.cancel;
    append.concurrent_logits = true;
    append.on_logits = [&](int64_t i, std::span<const float> logits) { on_logits(i + 1, logits); };
    return fork->Append(tokens.first(tokens.size() - 1), append);
  }

  // The likeliest tokens up to the one that ends the line.
  Status GreedyLine(const Session& session, Tokens* line) {
    PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> fork, session.Fork());
    while (line->size() < kMostLineTokens) {
      const auto id = static_cast<int32_t>(Top(fork->logits()));
      line->push_back(id);
      const bool feed = model_.tokenizer().TokenBytes(id, true).find('\n') != std::string::npos;
      // A line may begin with the line feed that ends the one before.
      if (model_.tokenizer().IsEndOfGeneration(id) || (feed && line->size() > 1)) break;
      PHASOR_RETURN_IF_ERROR(fork->Append({&line->back(), 1}, {}));
    }
    return Status::Ok();
  }

  Status Edit(const EditDocument& d, const SourceEdit& edit, const Yardstick& fresh,
              std::vector<EditResult>* results) {
    const int64_t rest_begin = edit.at + static_cast<int64_t>(edit.after.size());
    const std::span<const int32_t> rest = std::span(d.tokens).subspan(rest_begin);
    // The text before the edit: the part that both have in common is there already.
    PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> old, fresh.session->Fork());
    PHASOR_RETURN_IF_ERROR(old->Truncate(edit.at));
    Tokens text = edit.before;
    text.insert(text.end(), rest.begin(), rest.end());
    std::vector<float> values;
    PHASOR_RETURN_IF_ERROR(Read(*old, text, &values));
    PHASOR_RETURN_IF_ERROR(Step());
    std::vector<float> deviation(wants_values_ ? rest.size() : 0);
    for (std::size_t t = 0; t < deviation.size(); ++t) {
      const float* now = fresh.values.data() + (rest_begin + t) * value_width_;
      const float* then = values.data() + (edit.before.size() + t) * value_width_;
      for (std::size_t c = 0; c < value_width_; ++c) {
        deviation[t] += (now[c] - then[c]) * (now[c] - then[c]);
      }
    }
    for (const EditMethod& method : options_.methods) {
      EditResult result;
      result.method = method;
      result.kind = edit.kind;
      result.depth = edit.depth;
      result.n_tokens = static_cast<int64_t>(d.tokens.size());
      result.distance = static_cast<int64_t>(rest.size());
      result.full_milliseconds = fresh.milliseconds;
      PHASOR_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, old->Fork());
      PHASOR_RETURN_IF_ERROR(Apply(edit, method, deviation, *session, &result));
      PHASOR_RETURN_IF_ERROR(Score(d, fresh, *session, &result));
      results->push_back(std::move(result));
      PHASOR_RETURN_IF_ERROR(Step());
    }
    return Status::Ok();
  }

  Status Apply(const SourceEdit& edit, const EditMethod& method,
               const std::vector<float>& deviation, Session& session, EditResult* result) {
    using Rest = ReplaceOptions::Rest;
    const Stopwatch watch;
    const auto n_before = static_cast<int64_t>(edit.before.size());
    const std::string& name = method.name;
    if (name == "stay" || name == "pie" || name == "behind" || name == "reread") {
      ReplaceOptions replace;
      replace.cancel = options_.cancel;
      if (name == "stay") replace.rest = Rest::kStay;
      if (name == "reread") replace.rest = Rest::kReread;
      replace.recompute = method.share;
      PHASOR_ASSIGN_OR_RETURN(const ReplaceReport report,
                              session.Replace(edit.at, edit.at + n_before, edit.after, replace));
      result->n_read = report.n_read;
    } else if (name != "unedited") {
      const Ranges ranges = SelectTokens(method, result->distance, deviation);
      PHASOR_RETURN_IF_ERROR(ReplaceRanges(edit, ranges, session, &result->n_read));
    }
    if (session.logits().empty()) {
      PHASOR_RETURN_IF_ERROR(session.RefreshLogits());
      ++result->n_read;
    }
    result->milliseconds = watch.Milliseconds();
    return Status::Ok();
  }

  // Session::Replace, with any part of the rest read again: reused and read stretches alternate, so
  // that what is read sees what was read before it.
  Status ReplaceRanges(const SourceEdit& edit, const Ranges& ranges, Session& session,
                       int64_t* n_read) {
    const int64_t begin = edit.at + static_cast<int64_t>(edit.before.size());
    const int64_t n_rest = session.n_tokens() - begin;
    std::vector<TextSpan> spans;  // reused, read, reused, ..., reused
    int64_t at = 0;
    for (const auto& [first, last] : ranges) {
      for (const auto& [a, b] : {std::pair(at, first), std::pair(first, last)}) {
        PHASOR_ASSIGN_OR_RETURN(TextSpan span, session.Slice(begin + a, begin + b));
        spans.push_back(std::move(span));
      }
      at = last;
    }
    PHASOR_ASSIGN_OR_RETURN(TextSpan span, session.Slice(begin + at, begin + n_rest));
    spans.push_back(std::move(span));
    PHASOR_RETURN_IF_ERROR(session.Truncate(edit.at));
    Tokens unread = edit.after;
    for (std::size_t i = 0; i <= spans.size(); ++i) {
      const bool reused = i % 2 == 0 && i < spans.size();
      if (i < spans.size() && !reused) {
        unread.insert(unread.end(), spans[i].tokens.begin(), spans[i].tokens.end());
      }
      const bool flush = i == spans.size() || (reused && !spans[i].tokens.empty());
      if (flush && !unread.empty()) {
        PHASOR_RETURN_IF_ERROR(Read(session, unread, nullptr));
        *n_read += static_cast<int64_t>(unread.size());
        unread.clear();
      }
      if (reused && !spans[i].tokens.empty()) PHASOR_RETURN_IF_ERROR(session.Attach(spans[i]));
    }
    return Status::Ok();
  }

  Status Score(const EditDocument& d, const Yardstick& fresh, const Session& session,
               EditResult* result) {
    result->kl.resize(d.continuation.size());
    std::atomic<int64_t> n_same = 0;
    PHASOR_RETURN_IF_ERROR(
        Predict(session, d.continuation, [&](int64_t i, std::span<const float> logits) {
          const std::span<const float> base(fresh.logits.data() + i * vocab_, vocab_);
          result->kl[i] = KlDivergence(base.data(), logits.data(), static_cast<int64_t>(vocab_));
          n_same += Top(base) == Top(logits) ? 1 : 0;
        }));
    result->n_same_top = n_same;
    // Greedy decoding gives the line if every step along it does.
    std::atomic<bool> same_line = true;
    PHASOR_RETURN_IF_ERROR(
        Predict(session, fresh.line, [&](int64_t i, std::span<const float> logits) {
          if (Top(logits) != fresh.line[i]) same_line = false;
        }));
    result->same_line = same_line;
    return Status::Ok();
  }

  const LoadedModel& model_;
  const EditEvalOptions& options_;
  const std::size_t vocab_, value_width_;
  const int value_layer_;
  bool wants_values_ = false;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

const std::vector<std::string>& DefaultEditMethods() {
  static const std::vector<std::string> methods = {
      "unedited",  "stay",      "pie",         "behind:0.05",    "behind:0.15",
      "tail:0.05", "tail:0.15", "spread:0.15", "deviating:0.15", "reread"};
  return methods;
}

Result<EditMethod> ParseEditMethod(const std::string& id) {
  EditMethod method{.id = id, .name = id.substr(0, id.find(':')), .share = 0};
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return method.name == n; });
  };
  const bool has_share = method.name.size() < id.size();
  if (has_share) {
    const char* begin = id.c_str() + method.name.size() + 1;
    const auto [end, error] = std::from_chars(begin, id.c_str() + id.size(), method.share);
    if (error != std::errc() || end != id.c_str() + id.size()) method.share = NAN;
  }
  if ((!has_share && is({"unedited", "stay", "pie", "reread"})) ||
      (has_share && method.share > 0 && method.share <= 1 &&
       is({"behind", "tail", "spread", "deviating"}))) {
    return method;
  }
  return InvalidArgument("edit: expected unedited, stay, pie, reread, or behind:S, tail:S, " +
                         std::string("spread:S, deviating:S with a share S above 0 and at most ") +
                         "1, found \"" + id + "\"");
}

std::vector<std::pair<int64_t, int64_t>> SelectTokens(const EditMethod& method, int64_t n_rest,
                                                      const std::vector<float>& deviation) {
  const int64_t n = std::llround(method.share * static_cast<double>(n_rest));
  if (n == 0) return {};
  if (method.name == "behind") return {{0, n}};
  if (method.name == "tail") return {{n_rest - n, n_rest}};
  const int64_t n_blocks = (n_rest + kEditBlockTokens - 1) / kEditBlockTokens;
  const int64_t n_chosen =
      std::clamp<int64_t>(std::llround(method.share * static_cast<double>(n_blocks)), 1, n_blocks);
  std::vector<bool> chosen(n_blocks);
  if (method.name == "spread") {
    for (int64_t i = 0; i < n_chosen; ++i) chosen[(2 * i + 1) * n_blocks / (2 * n_chosen)] = true;
  } else {
    std::vector<double> sums(n_blocks);
    for (int64_t t = 0; t < n_rest; ++t) sums[t / kEditBlockTokens] += deviation[t];
    std::vector<int64_t> order(n_blocks);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return sums[a] > sums[b]; });
    for (int64_t i = 0; i < n_chosen; ++i) chosen[order[i]] = true;
  }
  return Join(chosen, n_rest);
}

Result<std::vector<EditResult>> EvaluateEdits(const LoadedModel& model,
                                              const std::vector<EditDocument>& documents,
                                              const EditEvalOptions& options) {
  std::vector<EditResult> results;
  Evaluator evaluator(model, options);
  PHASOR_RETURN_IF_ERROR(evaluator.Run(documents, &results));
  return results;
}

}  // namespace phasor::eval
