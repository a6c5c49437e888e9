// Editing a session's text: the ledger of its cache and its tokens, kept in step.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/session_codecs.h"

namespace phasor {
namespace {

// Pins the tokens from `at` on that are pinned in the span they were read anew from.
void PinAgain(const KvSpan& span, int64_t at, KvCache* cache) {
  for (const KvPiece& piece : span.pieces()) {
    if (piece.pinned) (void)cache->Pin(at, at + piece.n_rows);
    at += piece.n_rows;
  }
}

}  // namespace

Status Session::CheckRoom(int64_t n) const {
  if (n_tokens() + n <= n_ctx_) return Status::Ok();
  return OutOfRange("context: expected at most " + std::to_string(n_ctx_) + " tokens, found " +
                    std::to_string(n_tokens() + n) + " (" + std::to_string(n_tokens()) +
                    " in the cache and " + std::to_string(n) +
                    " new); raise -c or shorten the text");
}

// Makes room for n_new tokens, where the session may drop old ones.
Status Session::ShiftContext(int64_t n_new) {
  if (!options_.context_shift || n_tokens() + n_new <= n_ctx_) return Status::Ok();
  const int64_t keep = std::clamp<int64_t>(options_.n_keep, 0, n_tokens());
  const int64_t too_many = n_tokens() + n_new - n_ctx_;
  if (too_many > n_tokens() - keep) return Status::Ok();  // CheckRoom will say why
  int64_t drop = std::max(too_many, (n_tokens() - keep) / 2);
  // Pinned tokens stay: pieces between them go, oldest first.
  for (int64_t at = keep; drop > 0 && at < n_tokens();) {
    int64_t token = 0, end = 0;
    bool pinned = false;
    for (const KvPiece& piece : cache_->pieces()) {
      end = token + piece.n_rows;
      pinned = piece.pinned;
      if (at < end) break;
      token = end;
    }
    if (pinned) {
      at = end;
      continue;
    }
    const int64_t n = std::min(drop, end - at);
    PHASOR_RETURN_IF_ERROR(Erase(at, at + n));
    drop -= n;
  }
  return Status::Ok();
}

Result<TextSpan> Session::Slice(int64_t begin, int64_t end) const {
  PHASOR_ASSIGN_OR_RETURN(KvSpan kv, cache_->Slice(begin, end));
  return TextSpan{std::move(kv), {tokens_.begin() + begin, tokens_.begin() + end}};
}

Status Session::Attach(const TextSpan& span, const AttachOptions& options) {
  PHASOR_RETURN_IF_ERROR(CheckRoom(static_cast<int64_t>(span.tokens.size())));
  PHASOR_RETURN_IF_ERROR(cache_->Attach(span.kv, options));
  tokens_.insert(tokens_.end(), span.tokens.begin(), span.tokens.end());
  logits_.clear();
  return Status::Ok();
}

Status Session::Insert(int64_t at, const TextSpan& span) {
  PHASOR_RETURN_IF_ERROR(CheckRoom(static_cast<int64_t>(span.tokens.size())));
  PHASOR_RETURN_IF_ERROR(cache_->Insert(at, span.kv));
  tokens_.insert(tokens_.begin() + at, span.tokens.begin(), span.tokens.end());
  logits_.clear();
  return Status::Ok();
}

Status Session::Erase(int64_t begin, int64_t end) {
  PHASOR_RETURN_IF_ERROR(cache_->Erase(begin, end));
  tokens_.erase(tokens_.begin() + begin, tokens_.begin() + end);
  logits_.clear();
  return Status::Ok();
}

Status Session::Move(int64_t begin, int64_t end, int64_t to) {
  PHASOR_RETURN_IF_ERROR(cache_->Move(begin, end, to));
  const auto at = [&](int64_t i) { return tokens_.begin() + i; };
  if (to < begin) {
    std::rotate(at(to), at(begin), at(end));
  } else if (to > end) {
    std::rotate(at(begin), at(end), at(to));
  }
  logits_.clear();
  return Status::Ok();
}

Status Session::Copy(int64_t begin, int64_t end, int64_t to) {
  PHASOR_ASSIGN_OR_RETURN(const TextSpan span, Slice(begin, end));
  return Insert(to, span);
}

Status Session::Pin(int64_t begin, int64_t end, bool pinned) {
  return cache_->Pin(begin, end, pinned);
}

Status Session::Truncate(int64_t n) {
  if (n == n_tokens()) return Status::Ok();
  PHASOR_RETURN_IF_ERROR(cache_->Truncate(n));
  tokens_.resize(n);
  logits_.clear();
  return Status::Ok();
}

void Session::Clear() {
  cache_->Clear();
  tokens_.clear();
  logits_.clear();
}

// Truncates past pins: for text that comes back at once.
Status Session::Cut(int64_t n) {
  PHASOR_RETURN_IF_ERROR(cache_->Truncate(n, /*even_pinned=*/true));
  tokens_.resize(n);
  logits_.clear();
  return Status::Ok();
}

Status Session::RefreshLogits() {
  const int64_t n = n_tokens();
  if (n == 0) return InvalidArgument("logits: expected at least one token, found none");
  if (cache_->pieces().back().view.group != 0) {
    return InvalidArgument(
        "logits: expected a question behind the contexts that stand side by side, found none");
  }
  const int32_t last[] = {tokens_.back()};
  const PositionTicks position[] = {cache_->PositionOf(n - 1)};
  const PositionTicks next = cache_->next_position();
  PHASOR_ASSIGN_OR_RETURN(const TextSpan old, Slice(n - 1, n));
  const bool pinned = cache_->AnyPinned(n - 1, n);
  PHASOR_RETURN_IF_ERROR(Cut(n - 1));
  AppendOptions options;
  options.positions = position;
  const Status status = Decode(last, options);
  if (!status.ok()) (void)Attach(old, {.position = position[0], .same_left_context = true});
  (void)cache_->Pin(n - 1, n, pinned);
  cache_->SetNextPosition(next);
  return status;
}

Result<std::unique_ptr<Session>> Session::Fork() const {
  std::unique_ptr<Session> s(new Session());
  s->model_ = model_;
  s->options_ = options_;
  s->n_ctx_ = n_ctx_;
  s->cache_ = cache_->Fork();
  s->tokens_ = tokens_;
  s->logits_ = logits_;
  return s;
}

void Session::TakeTextOf(const Session& other) {
  cache_ = other.cache_->Fork();
  tokens_ = other.tokens_;
  logits_ = other.logits_;
}

Status Session::SetSchedule(const RopeParams& rope) {
  SessionOptions options = options_;
  options.rope = rope;
  PHASOR_ASSIGN_OR_RETURN(const PhaseTable phases, MakeSessionPhases(model_->config(), options));
  options_.rope = rope;
  cache_->SetSchedule(phases);
  return Status::Ok();
}

Result<ReplaceReport> Session::Replace(int64_t begin, int64_t end, std::span<const int32_t> tokens,
                                       const ReplaceOptions& options) {
  using Rest = ReplaceOptions::Rest;
  if (!(options.recompute >= 0 && options.recompute <= 1)) {
    return InvalidArgument("replace: expected a share of 0 to 1 to recompute, found " +
                           std::to_string(options.recompute));
  }
  PHASOR_ASSIGN_OR_RETURN(const TextSpan removed, Slice(begin, end));
  if (cache_->AnyPinned(begin, end)) {
    return InvalidArgument("replace: expected tokens that are not pinned, found pinned ones");
  }
  if (cache_->has_groups()) {
    return Unsupported("replace: expected a text read in order, found contexts side by side");
  }
  const auto n_inserted = static_cast<int64_t>(tokens.size());
  PHASOR_RETURN_IF_ERROR(CheckRoom(n_inserted - (end - begin)));
  const int64_t n_rest = n_tokens() - end;
  const double share = options.rest == Rest::kReread ? 1.0 : options.recompute;
  const int64_t n_again = std::llround(share * static_cast<double>(n_rest));
  const auto start = std::chrono::steady_clock::now();
  // The text as it was, to go back to.
  PHASOR_ASSIGN_OR_RETURN(const TextSpan before, Slice(0, n_tokens()));
  PHASOR_ASSIGN_OR_RETURN(const TextSpan again, Slice(end, end + n_again));
  PHASOR_ASSIGN_OR_RETURN(const TextSpan rest, Slice(end + n_again, n_tokens()));
  const std::vector<float> logits = logits_;
  std::vector<int32_t> read(tokens.begin(), tokens.end());
  read.insert(read.end(), again.tokens.begin(), again.tokens.end());
  Status status = Cut(begin);
  const PositionTicks next = before.kv.end_position();
  if (status.ok() && !read.empty()) {
    AppendOptions append;
    append.cancel = options.cancel;
    status = Append(read, append);
  }
  if (status.ok() && !rest.tokens.empty()) {
    AttachOptions attach;
    attach.keep_pinned = true;
    if (options.rest == Rest::kStay) attach.position = rest.kv.first_position();
    // Without a difference in text nothing is stale.
    attach.same_left_context = removed.tokens.empty() && tokens.empty();
    status = Attach(rest, attach);
  }
  if (!status.ok()) {
    Clear();
    (void)Attach(
        before,
        {.position = before.kv.first_position(), .same_left_context = true, .keep_pinned = true});
    cache_->SetNextPosition(next);
    logits_ = logits;
    return status;
  }
  PinAgain(again.kv, begin + n_inserted, cache_.get());
  ReplaceReport report;
  report.n_removed = end - begin;
  report.n_inserted = n_inserted;
  report.n_reused = static_cast<int64_t>(rest.tokens.size());
  report.n_read = static_cast<int64_t>(read.size());
  report.milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return report;
}

Status AppendBatch(std::span<const BatchAppend> items,
                   const std::function<void(int, int64_t, std::span<const float>)>& on_logits) {
  if (items.empty()) return Status::Ok();
  std::vector<BatchItem> batch;
  std::vector<int64_t> first;
  int64_t n = 0;
  for (const BatchAppend& item : items) {
    if (item.tokens.empty()) {
      return InvalidArgument("batch: expected at least one token for every session, found none");
    }
    if (item.session->model_ != items[0].session->model_) {
      return InvalidArgument("batch: expected sessions of one model, found several models");
    }
    PHASOR_RETURN_IF_ERROR(item.session->CheckRoom(static_cast<int64_t>(item.tokens.size())));
    batch.push_back({item.session->cache_.get(), item.tokens, item.positions});
    first.push_back(n);
    n += static_cast<int64_t>(item.tokens.size());
  }
  Session& lead = *items[0].session;
  ForwardOptions forward;
  forward.logits = on_logits ? LogitsWanted::kAll : LogitsWanted::kLast;
  forward.on_logits = [&](int64_t row, std::span<const float> logits) {
    const auto after = std::upper_bound(first.begin(), first.end(), row);
    const auto i = static_cast<std::size_t>(after - first.begin() - 1);
    const int64_t index = row - first[i];
    if (on_logits) on_logits(static_cast<int>(i), index, logits);
    if (index + 1 == static_cast<int64_t>(items[i].tokens.size())) {
      items[i].session->logits_.assign(logits.begin(), logits.end());
    }
  };
  PHASOR_RETURN_IF_ERROR(lead.model_->transformer().ForwardBatch(
      batch, forward, lead.forward_scratch(), lead.model_->pool()));
  for (const BatchAppend& item : items) {
    std::vector<int32_t>& tokens = item.session->tokens_;
    tokens.insert(tokens.end(), item.tokens.begin(), item.tokens.end());
  }
  return Status::Ok();
}

}  // namespace phasor
