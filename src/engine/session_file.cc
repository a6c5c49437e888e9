// Sessions as span files (docs/formats.md): text, keys and values, and the newest token's logits.
#include <algorithm>
#include <cstring>

#include "cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/session_fingerprint.h"
#include "store/kv_span_io.h"
#include "store/span_file.h"

namespace phasor {
namespace {

constexpr char kLogits[] = "logits";  // f32 [vocab], or nothing after an edit

// Ids index the embedding and the sampler's counts.
Status CheckTokens(const std::vector<int32_t>& tokens, int n_vocab, const std::string& where) {
  const auto bad = std::find_if(tokens.begin(), tokens.end(),
                                [&](int32_t id) { return id < 0 || id >= n_vocab; });
  if (bad == tokens.end()) return Status::Ok();
  return DataCorrupt(where + ": expected token ids from 0 to " + std::to_string(n_vocab - 1) +
                     ", found " + std::to_string(*bad));
}

Result<std::vector<float>> ReadLogits(const SpanHeader& header, int n_vocab,
                                      const std::string& where) {
  std::vector<float> logits;
  for (const SpanAttachment& a : header.attachments) {
    if (a.name != kLogits || a.bytes.empty()) continue;
    const std::size_t expected = sizeof(float) * static_cast<std::size_t>(n_vocab);
    if (a.bytes.size() != expected) {
      return DataCorrupt(where + ": logits: expected " + std::to_string(expected) +
                         " bytes, found " + std::to_string(a.bytes.size()));
    }
    logits.resize(static_cast<std::size_t>(n_vocab));
    std::memcpy(logits.data(), a.bytes.data(), a.bytes.size());
  }
  return logits;
}

// Calls fn(first piece, last, first token, end token) for runs of pieces for which `key` is equal.
template <typename Key, typename Fn>
Status ForRuns(const std::vector<KvPiece>& pieces, Key key, Fn fn) {
  int64_t token = 0;
  for (std::size_t begin = 0; begin < pieces.size();) {
    std::size_t end = begin;
    const int64_t first_token = token;
    for (; end < pieces.size() && key(pieces[end]) == key(pieces[begin]); ++end) {
      token += pieces[end].n_rows;
    }
    PHASOR_RETURN_IF_ERROR(fn(begin, end, first_token, token));
    begin = end;
  }
  return Status::Ok();
}

// The ledger of a cache that has just been made, from the pieces of a span of the same store.
Status AttachAll(const KvSpan& span, KvCache* cache) {
  const std::vector<KvPiece>& pieces = span.pieces();
  const auto group = [](const KvPiece& p) { return p.view.group; };
  PHASOR_RETURN_IF_ERROR(
      ForRuns(pieces, group, [&](std::size_t begin, std::size_t end, int64_t, int64_t) -> Status {
        const KvPiece& p = pieces[begin];
        const PositionTicks first =
            span.store()->positions(p.kind, p.block)[p.first_row] + p.view.shift;
        const KvSpan run(span.store(), {pieces.begin() + begin, pieces.begin() + end}, first,
                         span.end_position());
        return cache->Attach(run,
                             {.position = first, .same_left_context = true, .group = p.view.group});
      }));
  const auto pinned = [](const KvPiece& p) { return p.pinned; };
  PHASOR_RETURN_IF_ERROR(ForRuns(
      pieces, pinned, [&](std::size_t begin, std::size_t, int64_t first, int64_t last) -> Status {
        return pieces[begin].pinned ? cache->Pin(first, last) : Status::Ok();
      }));
  cache->SetNextPosition(span.end_position());
  return Status::Ok();
}

}  // namespace

Status Session::Save(const std::string& path) const {
  if (n_tokens() == 0) {
    return InvalidArgument("session: expected at least one token to save, found none");
  }
  PHASOR_ASSIGN_OR_RETURN(KvSpan span, cache_->Slice(0, n_tokens()));
  KvSpanSourceOptions options;
  options.fingerprint = SessionFingerprint(*this);
  options.left_context = LeftContext({});
  options.marks = SpanMarks::kKeep;
  options.attachments.push_back({kLogits, std::string(reinterpret_cast<const char*>(logits_.data()),
                                                      logits_.size() * sizeof(float))});
  return WriteSpanFile(path, KvSpanSource(std::move(span), tokens_, std::move(options)));
}

Status Session::Load(const std::string& path) {
  PHASOR_ASSIGN_OR_RETURN(const std::shared_ptr<const SpanFile> file, SpanFile::Open(path));
  const SpanHeader& header = file->header();
  const SpanFingerprint fingerprint = SessionFingerprint(*this);
  PHASOR_RETURN_IF_ERROR(file->CheckFits(fingerprint));
  if (static_cast<int64_t>(header.tokens.size()) > n_ctx_) {
    return OutOfRange(path + ": expected at most " + std::to_string(n_ctx_) + " tokens, found " +
                      std::to_string(header.tokens.size()) + "; raise -c");
  }
  const int n_vocab = model_->config().n_vocab;
  PHASOR_RETURN_IF_ERROR(CheckTokens(header.tokens, n_vocab, path));
  PHASOR_ASSIGN_OR_RETURN(std::vector<float> logits, ReadLogits(header, n_vocab, path));
  PHASOR_ASSIGN_OR_RETURN(const KvSpan span, RestoreSpan(*file, store(), fingerprint));
  auto cache = std::make_unique<KvCache>(cache_->options(), store());
  cache->SetSchedule(cache_->schedule());
  cache->SetGroupScale(cache_->group_scale());
  PHASOR_RETURN_IF_ERROR(AttachAll(span, cache.get()));
  // Nothing below can fail: until here the session is as it was.
  cache_ = std::move(cache);
  tokens_ = header.tokens;
  logits_ = std::move(logits);
  return Status::Ok();
}

}  // namespace phasor
