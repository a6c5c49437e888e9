#include "engine/parallel_contexts.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "cache/kv_cache.h"

namespace phasor {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

int64_t CountContextTokens(const ParallelContext& context) {
  return static_cast<int64_t>(context.encoded != nullptr ? context.encoded->tokens.size()
                                                         : context.tokens.size());
}

Status CheckScale(const char* what, float value) {
  if (value > 0 && value <= 1) return Status::Ok();
  return InvalidArgument("parallel contexts: expected a " + std::string(what) +
                         " above 0 and at most 1, found " + std::to_string(value));
}

Status CheckSession(const Session& session) {
  const int64_t window = session.model().config().sliding_window;
  if (window > 0) {
    return Unsupported(
        "parallel contexts: expected a model that attends to all of the text, found a sliding "
        "window of " +
        std::to_string(window) +
        " tokens: it would hide the contexts that come first from what follows them");
  }
  if (session.options().context_shift) {
    return InvalidArgument(
        "parallel contexts: expected a session without context shift, which would cut into the "
        "contexts, found one with it");
  }
  if (session.cache().has_groups()) {
    return InvalidArgument(
        "parallel contexts: expected a plain text before them, found parallel contexts; truncate "
        "to the prefix first");
  }
  return Status::Ok();
}

Status CheckContexts(const Session& session, std::span<const ParallelContext> contexts) {
  if (contexts.empty()) {
    return InvalidArgument("parallel contexts: expected at least one, found none");
  }
  int64_t total = session.n_tokens();
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    const std::string which = "parallel contexts: context " + std::to_string(i + 1);
    const int64_t n = CountContextTokens(contexts[i]);
    if (n == 0) return InvalidArgument(which + ": expected at least one token, found none");
    total += n;
    const TextSpan* encoded = contexts[i].encoded;
    if (encoded == nullptr) continue;
    if (encoded->kv.n_tokens() != n) {
      return InvalidArgument(which + ": expected a span of " + std::to_string(n) +
                             " cached tokens, found " + std::to_string(encoded->kv.n_tokens()));
    }
    if (encoded->kv.store() != session.store()) {
      return InvalidArgument(which +
                             ": expected a span of the session's own store, found one of another");
    }
  }
  if (total > session.n_ctx()) {
    return OutOfRange("parallel contexts: expected at most " + std::to_string(session.n_ctx()) +
                      " tokens of prefix and contexts, found " + std::to_string(total) +
                      "; raise the context or leave out a context");
  }
  return Status::Ok();
}

// Reads contexts on forks of the prefix. A pass over the model holds up to `batch` tokens: the
// next chunk of a long context, or several short contexts, which would leave the processor waiting
// for weights one by one.
class ContextReader {
 public:
  ContextReader(const Session& prefix, std::span<const ParallelContext> contexts,
                const ParallelOptions& options)
      : prefix_(prefix),
        contexts_(contexts),
        options_(options),
        batch_(options.batch > 0 ? options.batch : prefix.options().n_batch) {
    for (const ParallelContext& c : contexts) total_ += c.encoded ? 0 : CountContextTokens(c);
  }

  // Spans of the contexts that are read here; what was encoded before stays empty.
  Result<std::vector<TextSpan>> Run() {
    std::vector<TextSpan> spans(contexts_.size());
    while (done_ < total_) {
      if (options_.cancel != nullptr && options_.cancel->load()) {
        return Cancelled("parallel contexts: cancelled after " + std::to_string(done_) + " of " +
                         std::to_string(total_) + " tokens");
      }
      PHASOR_RETURN_IF_ERROR(Pass());
      for (Open& open : open_) {
        if (!open.left.empty()) continue;
        PHASOR_ASSIGN_OR_RETURN(spans[open.index], Close(*open.fork));
      }
      std::erase_if(open_, [](const Open& open) { return open.left.empty(); });
      if (options_.on_progress) options_.on_progress(done_, total_);
    }
    return spans;
  }
  int64_t total() const { return total_; }

 private:
  struct Open {
    std::size_t index;
    std::unique_ptr<Session> fork;
    std::span<const int32_t> left;  // tokens not read yet
  };

  Status Pass() {
    std::vector<BatchAppend> items;
    int64_t room = batch_;
    const auto take = [&](Open& open) {
      const auto n = std::min<std::size_t>(open.left.size(), static_cast<std::size_t>(room));
      items.push_back({.session = open.fork.get(), .tokens = open.left.first(n)});
      open.left = open.left.subspan(n);
      room -= static_cast<int64_t>(n);
    };
    // At most one is left from the last pass.
    for (Open& open : open_) take(open);
    for (; room > 0 && next_ < contexts_.size(); ++next_) {
      if (contexts_[next_].encoded != nullptr) continue;
      PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<Session> fork, prefix_.Fork());
      // Apart from the context, so that no page holds tokens of both.
      PHASOR_RETURN_IF_ERROR(fork->Pin(0, fork->n_tokens()));
      open_.push_back({next_, std::move(fork), contexts_[next_].tokens});
      take(open_.back());
    }
    PHASOR_RETURN_IF_ERROR(AppendBatch(items));
    done_ += batch_ - room;
    return Status::Ok();
  }

  // The context that was read on a fork, as little of it as possible in 16-bit rows.
  Result<TextSpan> Close(Session& fork) const {
    KvCache& cache = fork.cache();
    const int64_t n = cache.n_tokens();
    // The newest rows wait for more to come until something else follows them: here their own last
    // one, seen once more behind itself.
    PHASOR_ASSIGN_OR_RETURN(const KvSpan last, cache.Slice(n - 1, n));
    PHASOR_RETURN_IF_ERROR(cache.Attach(last));
    cache.FreezeOlderThan(n, fork.model().pool());
    PHASOR_RETURN_IF_ERROR(cache.Truncate(n));
    return fork.Slice(prefix_.n_tokens(), n);
  }

  const Session& prefix_;
  std::span<const ParallelContext> contexts_;
  const ParallelOptions& options_;
  const int64_t batch_;
  int64_t total_ = 0, done_ = 0;
  std::size_t next_ = 0;
  std::vector<Open> open_;
};

// Cannot fail: everything was checked.
void AttachAll(Session& session, std::span<const ParallelContext> contexts,
               const ParallelOptions& options, const std::vector<TextSpan>& spans) {
  KvCache& cache = session.cache();
  const PositionTicks begin = cache.next_position();
  PositionTicks end = begin;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const Status status = session.Attach(
        spans[i], {.position = begin,
                   .same_left_context = contexts[i].encoded == nullptr || contexts[i].same_prefix,
                   .group = 1});
    PHASOR_CHECK(status.ok());
    end = std::max(end, cache.next_position());
  }
  cache.SetNextPosition(end);
  cache.SetGroupScale({.temperature = options.temperature, .scale = options.scale});
}

}  // namespace

Result<ParallelReport> AttachParallelContexts(Session& session,
                                              std::span<const ParallelContext> contexts,
                                              const ParallelOptions& options) {
  PHASOR_RETURN_IF_ERROR(CheckScale("temperature", options.temperature));
  PHASOR_RETURN_IF_ERROR(CheckScale("scale", options.scale));
  if (options.batch < 0) {
    return InvalidArgument("parallel contexts: expected a batch of at least 0, found " +
                           std::to_string(options.batch));
  }
  PHASOR_RETURN_IF_ERROR(CheckSession(session));
  PHASOR_RETURN_IF_ERROR(CheckContexts(session, contexts));
  ParallelReport report;
  const auto start = Clock::now();
  ContextReader reader(session, contexts, options);
  PHASOR_ASSIGN_OR_RETURN(report.contexts, reader.Run());
  report.n_read = reader.total();
  report.read_ms = MillisecondsSince(start);
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    if (contexts[i].encoded == nullptr) continue;
    report.contexts[i] = *contexts[i].encoded;
    report.n_reused += CountContextTokens(contexts[i]);
  }
  const auto attach_start = Clock::now();
  const std::size_t bytes = session.cache().UsedBytes();
  AttachAll(session, contexts, options, report.contexts);
  report.bytes = session.cache().UsedBytes() - bytes;
  report.attach_ms = MillisecondsSince(attach_start);
  return report;
}

}  // namespace phasor
