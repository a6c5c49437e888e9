// Files: read-only memory maps, and writes that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
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

// Writes to "<path>.tmp-<pid>", then fsync and rename on Commit. Without Commit the temporary file
// is removed and `path` is untouched.
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
  Status Commit();

 private:
  AtomicFileWriter() = default;
  std::FILE* file_ = nullptr;
  std::string path_, temp_path_;
};

bool FileExists(const std::string& path);
bool IsDirectory(const std::string& path);
// $PHASOR_CACHE, else $XDG_CACHE_HOME/phasor, else ~/.cache/phasor. Not created.
std::string UserCacheDir();
// Creates the folder and its parents.
Status MakeDirs(const std::string& path);

}  // namespace phasor
