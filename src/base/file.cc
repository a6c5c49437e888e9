#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace phasor {
namespace {

Status ErrnoStatus(const std::string& path, const char* action) {
  int error = errno;
  std::string message = path + ": cannot " + action + ": " + std::strerror(error);
  if (error == ENOENT) return NotFound(std::move(message));
  if (error == ENOSPC || error == ENOMEM) return ResourceExhausted(std::move(message));
  return Unavailable(std::move(message));
}

const char* KindOf(mode_t mode) {
  if (S_ISREG(mode)) return "a file";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  return S_ISSOCK(mode) ? "a socket" : "a device";
}

}  // namespace

Result<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: a named pipe nobody writes to is refused below instead of waited for.
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(path, "open");
  struct stat st;
  if (::fstat(fd, &st) != 0) {
    Status s = ErrnoStatus(path, "stat");
    ::close(fd);
    return s;
  }
  if (!S_ISREG(st.st_mode)) {
    ::close(fd);
    return InvalidArgument(path + ": expected a regular file, found " + KindOf(st.st_mode));
  }
  MappedFile file;
  file.path_ = path;
  file.size_ = static_cast<std::size_t>(st.st_size);
  if (file.size_ > 0) {
    void* p = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
      Status s = ErrnoStatus(path, "map");
      ::close(fd);
      file.size_ = 0;
      return s;
    }
    file.data_ = static_cast<const std::byte*>(p);
  }
  ::close(fd);
  return file;
}

MappedFile& MappedFile::operator=(MappedFile&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  std::swap(path_, o.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

Result<std::string> ReadFile(const std::string& path, std::size_t max_bytes) {
  std::FILE* f = std::fopen(path.c_str(), "rb");
  if (f == nullptr) return ErrnoStatus(path, "open");
  struct stat st;
  // A device such as /dev/zero has no end, and would fill the memory before it met a limit for
  // files.
  constexpr std::size_t kMaxDeviceBytes = std::size_t{16} << 20;
  if (::fstat(::fileno(f), &st) == 0 && S_ISCHR(st.st_mode) && ::isatty(::fileno(f)) == 0) {
    max_bytes = std::min(max_bytes, kMaxDeviceBytes);
  }
  std::string out;
  char buffer[1 << 16];
  std::size_t n;
  while ((n = std::fread(buffer, 1, sizeof(buffer), f)) > 0) {
    if (out.size() + n > max_bytes) {
      std::fclose(f);
      return OutOfRange(path + ": expected at most " + std::to_string(max_bytes) +
                        " bytes, found more");
    }
    out.append(buffer, n);
  }
  bool failed = std::ferror(f) != 0;
  std::fclose(f);
  if (failed) return ErrnoStatus(path, "read");
  return out;
}

Result<AtomicFileWriter> AtomicFileWriter::Create(const std::string& path) {
  // The rename at the end would put a file in the place of a device such as /dev/null.
  struct stat st;
  if (::stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
    return InvalidArgument(path + ": expected a regular file or nothing to write to, found " +
                           KindOf(st.st_mode));
  }
  AtomicFileWriter w;
  w.path_ = path;
  w.temp_path_ = path + ".tmp-" + std::to_string(::getpid());
  w.file_ = std::fopen(w.temp_path_.c_str(), "wb");
  if (w.file_ == nullptr) return ErrnoStatus(w.temp_path_, "create");
  return w;
}

AtomicFileWriter& AtomicFileWriter::operator=(AtomicFileWriter&& o) noexcept {
  std::swap(file_, o.file_);
  std::swap(path_, o.path_);
  std::swap(temp_path_, o.temp_path_);
  return *this;
}

AtomicFileWriter::~AtomicFileWriter() {
  if (file_ != nullptr) {
    std::fclose(file_);
    ::unlink(temp_path_.c_str());
  }
}

Status AtomicFileWriter::Write(const void* data, std::size_t size_bytes) {
  if (size_bytes != 0 && std::fwrite(data, 1, size_bytes, file_) != size_bytes) {
    return ErrnoStatus(temp_path_, "write");
  }
  return Status::Ok();
}

Status AtomicFileWriter::Commit() {
  bool bad = std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0;
  Status status = bad ? ErrnoStatus(temp_path_, "write") : Status::Ok();
  std::fclose(file_);
  file_ = nullptr;
  if (status.ok() && ::rename(temp_path_.c_str(), path_.c_str()) != 0) {
    status = ErrnoStatus(path_, "rename into place");
  }
  if (!status.ok()) ::unlink(temp_path_.c_str());
  return status;
}

bool FileExists(const std::string& path) {
  std::error_code ec;
  return std::filesystem::exists(path, ec);
}

bool IsDirectory(const std::string& path) {
  std::error_code ec;
  return std::filesystem::is_directory(path, ec);
}

std::string UserCacheDir() {
  if (const char* p = std::getenv("PHASOR_CACHE"); p != nullptr && *p != 0) return p;
  if (const char* p = std::getenv("XDG_CACHE_HOME"); p != nullptr && *p != 0) {
    return std::string(p) + "/phasor";
  }
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr && *home != 0 ? home : "/tmp") + "/.cache/phasor";
}

Status MakeDirs(const std::string& path) {
  std::error_code ec;
  std::filesystem::create_directories(path, ec);
  if (ec) return Unavailable(path + ": cannot create folder: " + ec.message());
  return Status::Ok();
}

}  // namespace phasor
