// Files: read-only memory maps, and writes that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "phasor/status.h"

namespace phasor {

// A read-only memory map of a whole file. Move-only; unmapped on destruction.
class MappedFile {
 public:
  MappedFile() = default;
  static Result<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& o) noexcept { *this = std::move(o); }
  MappedFile& operator=(MappedFile&& o) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

// Whole file as a string; files above max_bytes are refused.
Result<std::string> ReadFile(const std::string& path, std::size_t max_bytes = 1ull << 32);

// Writes to a temporary file "<path>.tmp-<pid>-<random>", then fsync, rename and fsync of the
// folder on Commit. Without Commit, or after an error, the temporary file is removed and `path` is
// untouched; whatever happens to the process, `path` is the old file or the whole new one.
//
// A full disk, a quota, a file size limit and a device that fails are kResourceExhausted; the first
// error sticks, so that a caller may check Commit alone.
//
// While it writes it holds an flock on the temporary file. The kernel gives that up when the
// process dies, however it dies, so a temporary file that can be locked is a leftover:
// RemoveLeftovers needs no process ids, which mean nothing across containers. Create removes those
// of its own path.
class AtomicFileWriter {
 public:
  static Result<AtomicFileWriter> Create(const std::string& path);
  AtomicFileWriter(AtomicFileWriter&& o) noexcept { *this = std::move(o); }
  AtomicFileWriter& operator=(AtomicFileWriter&& o) noexcept;
  AtomicFileWriter(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(const AtomicFileWriter&) = delete;
  ~AtomicFileWriter();

  Status Write(const void* data, std::size_t size_bytes);
  Status Write(std::string_view text) { return Write(text.data(), text.size()); }
  // Overwrites bytes [offset, offset + size) of what was written; the next Write goes on at the
  // end.
  Status WriteAt(uint64_t offset, const void* data, std::size_t size_bytes);
  Status Commit();

 private:
  AtomicFileWriter() = default;
  Status Fail(const char* action);
  std::FILE* file_ = nullptr;
  std::string path_, temp_path_;
  Status error_;  // of the first call that failed
};

// Removes the temporary files in `folder` that dead writers left of files whose names `is_target`
// accepts; returns how many. Those of live writers stay.
int RemoveLeftovers(const std::string& folder,
                    const std::function<bool(std::string_view name)>& is_target);

// The folder a path lies in: "." for a bare name.
std::string ParentFolder(const std::string& path);
// Makes names created, renamed or removed in a folder survive a power cut. Best effort: not every
// file system can.
void SyncFolder(const std::string& folder);

bool FileExists(const std::string& path);
bool IsDirectory(const std::string& path);
// $PHASOR_CACHE, else $XDG_CACHE_HOME/phasor, else ~/.cache/phasor. Not created.
std::string UserCacheDir();
// Creates the folder and its parents.
Status MakeDirs(const std::string& path);

}  // namespace phasor
