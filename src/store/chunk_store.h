// Documents encoded once: spans found by the hash of their tokens, in memory and on disk.
//
// An entry has two hashes, both XXH3-128. *content*: fingerprint, token ids and the distances of
// the tokens' positions. *context*: the same and what the model had read before. A hit is
//   exact        the context is equal: the model computed these pages for this very text;
//   approximate  only the content is equal: above the first layer the stored keys and values
//   remember
//                another text to the left. Given out only when it was asked for, and never as
//                exact.
// Where a span is placed does not matter: scores depend on distances, and PiecesAt (span.h) moves a
// span to any offset without touching its pages.
//
// A hash only finds an entry. Fingerprint, tokens and context are compared with the file's own, and
// the whole file is checked, before a hit is returned.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "phasor/status.h"
#include "store/chunk_folder.h"
#include "store/hash.h"
#include "store/span.h"
#include "store/span_file.h"

namespace phasor {

struct ChunkStoreOptions {
  std::string folder;                      // made where missing; empty: in memory only
  uint64_t max_disk_bytes = UINT64_MAX;    // of all entries in the folder
  uint64_t max_memory_bytes = UINT64_MAX;  // of entries this process holds open
};

struct ChunkQuery {
  const SpanFingerprint* fingerprint = nullptr;
  std::span<const int32_t> tokens;
  SpanContext left_context;  // not known: nothing is exact
  // Positions relative to the first token's, in 1/65536 [n tokens]. Empty: consecutive.
  std::span<const int64_t> distances;
  bool allow_approximate = false;
};

enum class ChunkMatch { kExact, kApproximate };

struct ChunkHit {
  ChunkMatch match = ChunkMatch::kExact;
  std::string name;  // of the entry
  std::shared_ptr<const SpanFile> span;
};

// The two hashes, and the name they make: "<content>-<context>".
struct ChunkKey {
  Hash128 content;
  Hash128 context;  // zero when the left context is not known
  std::string Name() const { return content.Hex() + "-" + context.Hex(); }
  bool operator==(const ChunkKey&) const = default;
};
ChunkKey KeyOf(const ChunkQuery& query);
ChunkKey KeyOf(const SpanHeader& header);

// May be used from many threads, and its folder by many processes (chunk_folder.h).
class ChunkStore {
 public:
  static Result<std::unique_ptr<ChunkStore>> Open(const ChunkStoreOptions& options);

  // Keeps a span and returns its name. An equal entry that is whole is kept and counts as used; one
  // that is damaged is replaced. Makes room by evicting what was least recently used, after the new
  // entry is safe. kResourceExhausted when the disk is full or the budget too small for what is
  // pinned and this; the store is as it was then.
  Result<std::string> Put(const SpanSource& source);

  // kNotFound when there is no entry. An entry that is damaged, or is not what its name says, is an
  // error that names the file and the reason, and no other entry is taken in its place.
  Result<ChunkHit> Find(const ChunkQuery& query);
  // By name. kNotFound for an unknown one, kInvalidArgument when the fingerprint differs.
  Result<std::shared_ptr<const SpanFile>> Load(const std::string& name,
                                               const SpanFingerprint& fingerprint);

  Result<std::vector<ChunkEntry>> List() const;
  // Reads an entry anew, from the disk where there is one.
  Status Verify(const std::string& name) const;
  // kInvalidArgument for a pinned entry. Sessions that hold the span keep it.
  Status Remove(const std::string& name);
  Status Pin(const std::string& name);
  Status Unpin(const std::string& name);
  // Evicts until at most max_bytes are left. kResourceExhausted when more is pinned.
  Status Prune(uint64_t max_bytes);

  // Bytes of the entries that this process holds open.
  uint64_t memory_bytes() const;

 private:
  struct Resident {
    std::shared_ptr<const SpanFile> span;
    int64_t last_used = 0;  // counts uses
    bool pinned = false;    // without a folder; else pins are files
  };

  explicit ChunkStore(const ChunkStoreOptions& options) : options_(options) {}
  Result<std::shared_ptr<const SpanFile>> OpenEntry(const std::string& name);
  Result<ChunkHit> FindApproximate(const ChunkQuery& query, const ChunkKey& key);
  Result<std::vector<ChunkEntry>> ListByContent(const Hash128& content) const;
  std::shared_ptr<const SpanFile> FindResident(const std::string& name);
  void KeepResident(const std::string& name, std::shared_ptr<const SpanFile> span);
  Status PutInMemory(const std::string& name, const SpanSource& source);
  Status PutOnDisk(const std::string& name, const SpanSource& source);
  Status EvictResident(uint64_t max_bytes, const std::string& keep);
  Status CheckBudget(uint64_t new_bytes, const std::string& name) const;
  Status SetPinned(const std::string& name, bool pinned);

  const ChunkStoreOptions options_;
  std::optional<ChunkFolder> folder_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, Resident> resident_;
  int64_t n_uses_ = 0;
};

}  // namespace phasor
