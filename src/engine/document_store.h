// Documents read into sessions through a chunk store: what was read before is put in its place
// instead of being read again.
//
//   DocumentStore documents(chunks);
//   auto report = documents.Read(tokens, {.reuse = DocumentReuse::kExact}, session.get());
//
// A document that is found is labelled by what is known of it, and the labels are never mixed:
//   exact        the model computed its keys and values for this very text, left context included;
//   approximate  only its own tokens are the same (EPIC, 2410.15332, and Block-Attention,
//   2409.15355,
//                start from such reuse). It is moved to the session's next position, which is
//                exact; what it remembers of the text to its left is not, and
//                CacheStats::n_stale_tokens counts it.
//
// What a session holds afterwards is the same, bit for bit, whether a document was read or found
// exactly: either way its pages come to lie in blocks of their own behind the text before them. Of
// a document behind other text that is not quite what one long Append leaves: the text before it
// stays in the rows and pages it had, so that the last tokens of it are frozen later.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/kv_store.h"
#include "engine/engine.h"
#include "phasor/status.h"
#include "store/chunk_store.h"

namespace phasor {

enum class DocumentReuse {
  kNone,         // read every document; neither look it up nor keep it
  kExact,        // exact hits only
  kApproximate,  // exact hits, else approximate ones
};

enum class DocumentSource { kRead, kExact, kApproximate };
const char* DocumentSourceName(DocumentSource source);  // "read", "exact", "approximate"

struct DocumentStoreOptions {
  // Of blocks kept for sessions that share a KvStore, over all stores (SessionOptions::store). They
  // then hold one copy of a document's pages between them. 0: every session gets its own.
  uint64_t max_shared_bytes = uint64_t{1} << 30;
  // Told of what is wrong with the store and does not keep a document from being read: a damaged
  // entry, a full disk. May be empty.
  std::function<void(const Status&)> on_warning = {};
};

struct ReadDocumentOptions {
  DocumentReuse reuse = DocumentReuse::kExact;
  std::function<void(int64_t done, int64_t total)> on_progress = {};  // tokens, while it is read
  const std::atomic<bool>* cancel = nullptr;                          // checked before every chunk
};

struct DocumentReport {
  DocumentSource source = DocumentSource::kRead;
  int64_t n_tokens = 0;
  double milliseconds = 0;
  // Of the chunk store's entry that it came from or went into; 0: of none.
  uint64_t bytes = 0;
  std::string name;     // of that entry; empty: of none
  bool shared = false;  // its blocks are those that another session of the same KvStore uses
};

// What a document at the session's end would have to its left. Known only when the session's text
// is what a plain reading of its tokens would leave: nothing stale, all of one schedule and of
// group 0, at consecutive positions from 0 on. Of a session that ReadPacked filled the ledger does
// not say that documents were kept apart; do not read documents into those.
SpanContext LeftContextOf(const Session& session);

// Used by one thread at a time, which is that of the sessions it reads into; the chunk store may be
// shared with other threads and its folder with other processes.
class DocumentStore {
 public:
  explicit DocumentStore(std::shared_ptr<ChunkStore> chunks, DocumentStoreOptions options = {});

  // Puts the document behind the session's text. Its logits are gone afterwards, as after Attach.
  // kInvalidArgument for no tokens, kOutOfRange when it does not fit into the context (a session
  // with context_shift drops nothing for a document), kCancelled. On an error the session is as
  // before. An entry that is damaged or cannot be kept is a warning: the document is read.
  Result<DocumentReport> Read(std::span<const int32_t> tokens, const ReadDocumentOptions& options,
                              Session* session);

  // Bytes of the blocks kept for sharing.
  uint64_t shared_bytes() const;

 private:
  // Kept for the sessions of its store.
  struct SharedSpan {
    KvSpan span;
    std::vector<int32_t> tokens;
    SpanContext left_context;
    uint64_t entry_bytes = 0;  // of the chunk store's entry
    uint64_t block_bytes = 0;
    int64_t last_used = 0;  // counts uses
  };
  using SharedKey = std::pair<const KvStore*, std::string>;  // name of the entry
  // A document ready to be attached.
  struct Found {
    KvSpan span;
    DocumentReport report;
  };

  std::optional<Found> Find(const ChunkQuery& query, Session& session);
  std::optional<Found> FindShared(const std::string& name, const ChunkQuery& query,
                                  ChunkMatch match, const Session& session);
  Result<Found> ReadAnew(const ChunkQuery& query, const ReadDocumentOptions& options,
                         Session& session);
  void Keep(const Found& found, const ChunkQuery& query, const SpanContext& left_context);
  void DropUnused();
  void Warn(const Status& status) const;

  const std::shared_ptr<ChunkStore> chunks_;
  const DocumentStoreOptions options_;
  std::map<SharedKey, SharedSpan> shared_;
  int64_t n_uses_ = 0;
};

}  // namespace phasor
