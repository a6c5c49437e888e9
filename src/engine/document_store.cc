#include "engine/document_store.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

#include "base/check.h"
#include "cache/kv_cache.h"
#include "engine/session_fingerprint.h"
#include "store/kv_span_io.h"

namespace phasor {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t BlockBytes(const KvSpan& span) {
  std::set<std::pair<KvBlockKind, int>> blocks;
  for (const KvPiece& p : span.pieces()) blocks.insert({p.kind, p.block});
  uint64_t bytes = 0;
  for (const auto& [kind, block] : blocks) bytes += span.store()->BlockBytes(kind);
  return bytes;
}

void CopyRows(const KvPiece& from, int block, KvStore& store) {
  constexpr KvBlockKind kRows = KvBlockKind::kRows;
  const auto first = static_cast<std::size_t>(from.first_row);
  const auto n = static_cast<std::size_t>(from.n_rows);
  const auto copy = [&](const std::byte* source, std::byte* target, std::size_t page_bytes) {
    const std::size_t row_bytes = page_bytes / kPageTokens;
    std::memcpy(target + first * row_bytes, source + first * row_bytes, n * row_bytes);
  };
  for (int layer = 0; layer < store.options().n_layers; ++layer) {
    for (int head = 0; head < store.options().n_kv_heads; ++head) {
      copy(store.KeyPage(kRows, from.block, layer, head), store.KeyPage(kRows, block, layer, head),
           store.KeyBytes(kRows, layer, head));
      copy(store.ValuePage(kRows, from.block, layer, head),
           store.ValuePage(kRows, block, layer, head), store.ValueBytes(kRows, layer, head));
    }
  }
  std::copy_n(store.positions(kRows, from.block) + first, n, store.positions(kRows, block) + first);
  store.SetFilled(kRows, block, from.first_row + from.n_rows);
}

// The span with its last rows in a block of its own, which the session's next tokens may join.
// Where a row lies decides in which order sums are rounded, so no session may depend on whether
// another one joined the shared block first.
Result<KvSpan> WithOwnTail(const KvSpan& span) {
  std::vector<KvPiece> pieces = span.pieces();
  KvPiece& last = pieces.back();
  if (last.kind != KvBlockKind::kRows) return span;
  KvStore& store = *span.store();
  PHASOR_ASSIGN_OR_RETURN(const int block, store.Take(KvBlockKind::kRows));
  CopyRows(last, block, store);
  last.block = block;
  KvSpan own(span.store(), std::move(pieces), span.first_position(), span.end_position());
  store.Release(KvBlockKind::kRows, block);  // the span has a reference of its own
  return own;
}

Status CheckRequest(std::span<const int32_t> tokens, const Session& session) {
  if (tokens.empty()) {
    return InvalidArgument("document: expected at least one token, found none");
  }
  const int64_t n = session.n_tokens() + static_cast<int64_t>(tokens.size());
  if (n <= session.n_ctx()) return Status::Ok();
  return OutOfRange("document: expected at most " + std::to_string(session.n_ctx()) +
                    " tokens in the context, found " + std::to_string(n) + " (" +
                    std::to_string(session.n_tokens()) + " in the cache and " +
                    std::to_string(tokens.size()) + " of the document); raise -c or shorten it");
}

}  // namespace

const char* DocumentSourceName(DocumentSource source) {
  switch (source) {
    case DocumentSource::kRead:
      return "read";
    case DocumentSource::kExact:
      return "exact";
    case DocumentSource::kApproximate:
      return "approximate";
  }
  return "unknown";
}

SpanContext LeftContextOf(const Session& session) {
  const KvCache& cache = session.cache();
  const KvStore& store = *cache.store();
  PositionTicks next = 0;
  for (const KvPiece& piece : cache.pieces()) {
    // Equal schedules share an index, and the session's own is one of them.
    const bool plain = !piece.stale && piece.view.group == 0 &&
                       &store.schedule(piece.view.schedule) == &cache.schedule();
    if (!plain) return {};
    const PositionTicks* at = store.positions(piece.kind, piece.block) + piece.first_row;
    for (int row = 0; row < piece.n_rows; ++row, next += kTicksPerPosition) {
      if (at[row] + piece.view.shift != next) return {};
    }
  }
  if (cache.next_position() != next) return {};
  return LeftContext(session.tokens());
}

DocumentStore::DocumentStore(std::shared_ptr<ChunkStore> chunks, DocumentStoreOptions options)
    : chunks_(std::move(chunks)), options_(std::move(options)) {
  PHASOR_CHECK(chunks_ != nullptr);
}

void DocumentStore::Warn(const Status& status) const {
  if (options_.on_warning) options_.on_warning(status);
}

uint64_t DocumentStore::shared_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [key, shared] : shared_) bytes += shared.block_bytes;
  return bytes;
}

// Spans whose stores no session uses any more, which would keep all of their memory.
void DocumentStore::DropUnused() {
  std::map<const KvStore*, int64_t> n_kept;
  for (const auto& [key, shared] : shared_) ++n_kept[key.first];
  std::erase_if(shared_, [&](const auto& entry) {
    return entry.second.span.store().use_count() <= n_kept[entry.first.first];
  });
}

void DocumentStore::Keep(const Found& found, const ChunkQuery& query,
                         const SpanContext& left_context) {
  const uint64_t bytes = BlockBytes(found.span);
  if (bytes > options_.max_shared_bytes) return;
  uint64_t total = shared_bytes();
  while (total + bytes > options_.max_shared_bytes) {
    const auto oldest = std::min_element(
        shared_.begin(), shared_.end(),
        [](const auto& a, const auto& b) { return a.second.last_used < b.second.last_used; });
    total -= oldest->second.block_bytes;
    shared_.erase(oldest);
  }
  shared_[{found.span.store().get(), found.report.name}] = {
      .span = found.span,
      .tokens = {query.tokens.begin(), query.tokens.end()},
      .left_context = left_context,
      .entry_bytes = found.report.bytes,
      .block_bytes = bytes,
      .last_used = ++n_uses_};
}

std::optional<DocumentStore::Found> DocumentStore::FindShared(const std::string& name,
                                                              const ChunkQuery& query,
                                                              ChunkMatch match,
                                                              const Session& session) {
  const auto it = shared_.find({session.store().get(), name});
  if (it == shared_.end()) return std::nullopt;
  SharedSpan& shared = it->second;
  // A hash only finds it.
  const bool exact = match == ChunkMatch::kExact;
  if (!std::ranges::equal(shared.tokens, query.tokens)) return std::nullopt;
  if (exact && !(query.left_context.known && shared.left_context == query.left_context)) {
    return std::nullopt;
  }
  shared.last_used = ++n_uses_;
  Found found{shared.span, {}};
  found.report.source = exact ? DocumentSource::kExact : DocumentSource::kApproximate;
  found.report.name = name;
  found.report.bytes = shared.entry_bytes;
  found.report.shared = true;
  return found;
}

std::optional<DocumentStore::Found> DocumentStore::Find(const ChunkQuery& query, Session& session) {
  if (query.left_context.known) {
    auto found = FindShared(KeyOf(query).Name(), query, ChunkMatch::kExact, session);
    if (found.has_value()) return found;
  }
  auto hit = chunks_->Find(query);
  if (!hit.ok()) {
    if (hit.status().code() != StatusCode::kNotFound) Warn(hit.status());
    return std::nullopt;
  }
  if (auto found = FindShared(hit->name, query, hit->match, session)) return found;
  auto span = RestoreSpan(*hit->span, session.store(), *query.fingerprint);
  if (!span.ok()) {
    Warn(span.status());
    return std::nullopt;
  }
  Found found{std::move(span).value(), {}};
  found.report.source =
      hit->match == ChunkMatch::kExact ? DocumentSource::kExact : DocumentSource::kApproximate;
  found.report.name = hit->name;
  found.report.bytes = hit->span->size_bytes();
  Keep(found, query, hit->span->header().left_context);
  return found;
}

// Reads on a fork, so that an error leaves the session, and takes from there the document's part.
Result<DocumentStore::Found> DocumentStore::ReadAnew(const ChunkQuery& query,
                                                     const ReadDocumentOptions& options,
                                                     Session& session) {
  PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<Session> fork, session.Fork());
  AppendOptions append;
  append.on_progress = options.on_progress;
  append.cancel = options.cancel;
  PHASOR_RETURN_IF_ERROR(fork->Append(query.tokens, append));
  PHASOR_ASSIGN_OR_RETURN(TextSpan text, fork->Slice(session.n_tokens(), fork->n_tokens()));
  fork.reset();
  KvSpanSourceOptions source_options;
  source_options.fingerprint = *query.fingerprint;
  source_options.left_context = query.left_context;
  const KvSpanSource source(std::move(text.kv), query.tokens, std::move(source_options));
  Found found;
  // Of use later: as an exact hit, or to those who take approximate ones.
  const bool keep = options.reuse == DocumentReuse::kApproximate ||
                    (options.reuse == DocumentReuse::kExact && query.left_context.known);
  if (keep) {
    auto name = chunks_->Put(source);
    if (name.ok()) {
      found.report.name = std::move(name).value();
      found.report.bytes = SpanFileBytes(source.header());
    } else {
      Warn(name.status());
    }
  }
  // In blocks of its own, as if it had been found.
  PHASOR_ASSIGN_OR_RETURN(found.span, RestoreSpan(source, session.store(), *query.fingerprint));
  if (!found.report.name.empty()) Keep(found, query, query.left_context);
  return found;
}

Result<DocumentReport> DocumentStore::Read(std::span<const int32_t> tokens,
                                           const ReadDocumentOptions& options, Session* session) {
  PHASOR_RETURN_IF_ERROR(CheckRequest(tokens, *session));
  const auto start = Clock::now();
  DropUnused();
  const SpanFingerprint fingerprint = SessionFingerprint(*session);
  ChunkQuery query;
  query.fingerprint = &fingerprint;
  query.tokens = tokens;
  query.left_context = LeftContextOf(*session);
  query.allow_approximate = options.reuse == DocumentReuse::kApproximate;
  std::optional<Found> found;
  if (options.reuse != DocumentReuse::kNone) found = Find(query, *session);
  if (!found.has_value()) {
    PHASOR_ASSIGN_OR_RETURN(found, ReadAnew(query, options, *session));
  }
  PHASOR_ASSIGN_OR_RETURN(KvSpan span, WithOwnTail(found->span));
  DocumentReport& report = found->report;
  AttachOptions attach;
  attach.same_left_context = report.source != DocumentSource::kApproximate;
  PHASOR_RETURN_IF_ERROR(
      session->Attach({std::move(span), {tokens.begin(), tokens.end()}}, attach));
  report.n_tokens = static_cast<int64_t>(tokens.size());
  report.milliseconds = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  return report;
}

}  // namespace phasor
