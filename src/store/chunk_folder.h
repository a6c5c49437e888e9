// The disk side of the chunk store: a folder of span files named by the hashes of what they hold.
//
//   <content>-<context>.span   an entry; 32 hex digits each (chunk_store.h)
//   <content>-<context>.pin    an empty file: the entry is never evicted
//   .lock                      an empty file to lock
//
// Several processes may use one folder at once. Whoever reads or adds takes no lock: entries appear
// by rename and are never changed in place, so a name either does not exist or is a whole file, two
// writers of one key replace equal by equal, and a file that is removed stays readable for those
// who have it mapped. Whoever pins or removes holds an exclusive flock on .lock, because "it is not
// pinned" must still be true when the file goes. The kernel drops the lock when a process dies.
// Both need a local file system, or one that implements rename and flock as a local one does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "phasor/status.h"

namespace phasor {

struct ChunkEntry {
  std::string name;          // "<content>-<context>"
  uint64_t bytes = 0;        // of the file or image
  int64_t last_used_ns = 0;  // since 1970 on disk; a count of uses in memory
  bool pinned = false;
};

// "<32 hex digits>-<32 hex digits>", lower case: anything else names no file of the store.
bool IsChunkName(std::string_view name);

class ChunkFolder {
 public:
  // Makes the folder where it is missing and removes what dead writers left in it.
  static Result<ChunkFolder> Open(const std::string& path);

  const std::string& path() const { return path_; }
  std::string PathOf(const std::string& name) const { return path_ + "/" + name + ".span"; }
  // The entries whose names begin with `prefix`, by name. Other files in the folder are left alone.
  Result<std::vector<ChunkEntry>> List(std::string_view prefix = "") const;
  // Notes that the entry was used now (the file's modification time). A folder that cannot be
  // written to keeps the old time.
  void Touch(const std::string& name) const;

  // kNotFound when there is no such entry.
  Status Pin(const std::string& name) const;
  Status Unpin(const std::string& name) const;
  // kInvalidArgument for a pinned entry.
  Status Remove(const std::string& name) const;
  // Removes entries that are not pinned, least recently used first, until at most max_bytes are
  // left; `keep` stays. Returns the names that went. kResourceExhausted when pinned entries and
  // `keep` alone are more.
  Result<std::vector<std::string>> Evict(uint64_t max_bytes, const std::string& keep) const;

 private:
  explicit ChunkFolder(std::string path) : path_(std::move(path)) {}
  std::string PinOf(const std::string& name) const { return path_ + "/" + name + ".pin"; }

  std::string path_;
};

}  // namespace phasor
