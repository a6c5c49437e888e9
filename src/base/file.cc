#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/rng.h"

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

namespace {

constexpr char kTempMark[] = ".tmp-";

// What a write can meet on a healthy program's way: no room, or a device that gave up.
Status WriteErrorStatus(const std::string& path, const char* action) {
  const int error = errno;
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EIO:
    case ENOMEM:
      return ResourceExhausted(path + ": cannot " + action + ": " + std::strerror(error));
    default:
      return ErrnoStatus(path, action);
  }
}

// Length of "<name>" in "<name>.tmp-<digits>-<16 hex digits>"; 0 for every other name, so that no
// file of anybody else is taken for a temporary one.
std::size_t TargetLength(std::string_view name) {
  constexpr std::size_t kRandomDigits = 16;
  const std::size_t mark = name.rfind(kTempMark);
  if (mark == std::string_view::npos) return 0;
  const std::string_view tail = name.substr(mark + sizeof(kTempMark) - 1);
  const std::size_t dash = tail.find('-');
  const auto all_of = [](std::string_view text, std::string_view allowed) {
    return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos;
  };
  if (dash == std::string_view::npos || tail.size() - dash - 1 != kRandomDigits ||
      !all_of(tail.substr(0, dash), "0123456789") ||
      !all_of(tail.substr(dash + 1), "0123456789abcdef")) {
    return 0;
  }
  return mark;
}

// A new, locked temporary file for `path`; -1 with errno set.
int CreateLocked(const std::string& path, std::string* temp_path) {
  static std::atomic<uint64_t> counter{0};
  constexpr int kMaxTries = 100;
  for (int i = 0; i < kMaxTries; ++i) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    Rng rng(static_cast<uint64_t>(now) ^ counter.fetch_add(1) << 48 ^
            static_cast<uint64_t>(::getpid()) << 32);
    char random[17];
    std::snprintf(random, sizeof(random), "%016llx",
                  static_cast<unsigned long long>(rng.NextU64()));
    *temp_path = path + kTempMark + std::to_string(::getpid()) + "-" + random;
    const int fd = ::open(temp_path->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) continue;
    if (fd < 0) return -1;
    struct stat st;
    const bool locked = ::flock(fd, LOCK_EX | LOCK_NB) == 0;
    // Between creation and lock a clean-up may have taken the file for a leftover. A file system
    // without locks is served too: there nothing is cleaned up either.
    const bool taken =
        (!locked && errno == EWOULDBLOCK) || ::fstat(fd, &st) != 0 || st.st_nlink == 0;
    if (!taken) return fd;
    ::close(fd);
  }
  errno = EAGAIN;
  return -1;
}

}  // namespace

std::string ParentFolder(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

void SyncFolder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)::fsync(fd);
  ::close(fd);
}

int RemoveLeftovers(const std::string& folder,
                    const std::function<bool(std::string_view name)>& is_target) {
  int n_removed = 0;
  std::error_code ec;
  for (std::filesystem::directory_iterator it(folder, ec), end; !ec && it != end;
       it.increment(ec)) {
    const std::string name = it->path().filename().string();
    const std::size_t stem = TargetLength(name);
    if (stem == 0 || !is_target(std::string_view(name).substr(0, stem))) continue;
    const int fd = ::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) continue;
    struct stat st;
    if (::fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && ::flock(fd, LOCK_EX | LOCK_NB) == 0 &&
        ::unlink(it->path().c_str()) == 0) {
      ++n_removed;
    }
    ::close(fd);
  }
  return n_removed;
}

Result<AtomicFileWriter> AtomicFileWriter::Create(const std::string& path) {
  // The rename at the end would put a file in the place of a device such as /dev/null.
  struct stat st;
  if (::stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
    return InvalidArgument(path + ": expected a regular file or nothing to write to, found " +
                           KindOf(st.st_mode));
  }
  const std::string own_name = std::filesystem::path(path).filename().string();
  RemoveLeftovers(ParentFolder(path), [&](std::string_view name) { return name == own_name; });
  AtomicFileWriter w;
  w.path_ = path;
  const int fd = CreateLocked(path, &w.temp_path_);
  if (fd < 0) return WriteErrorStatus(w.temp_path_, "create");
  w.file_ = ::fdopen(fd, "wb");
  if (w.file_ == nullptr) {
    Status status = WriteErrorStatus(w.temp_path_, "open");
    ::close(fd);
    ::unlink(w.temp_path_.c_str());
    return status;
  }
  return w;
}

AtomicFileWriter& AtomicFileWriter::operator=(AtomicFileWriter&& o) noexcept {
  std::swap(file_, o.file_);
  std::swap(path_, o.path_);
  std::swap(temp_path_, o.temp_path_);
  std::swap(error_, o.error_);
  return *this;
}

AtomicFileWriter::~AtomicFileWriter() {
  if (file_ != nullptr) {
    std::fclose(file_);
    ::unlink(temp_path_.c_str());
  }
}

Status AtomicFileWriter::Fail(const char* action) {
  if (error_.ok()) error_ = WriteErrorStatus(temp_path_, action);
  return error_;
}

Status AtomicFileWriter::Write(const void* data, std::size_t size_bytes) {
  if (!error_.ok()) return error_;
  if (size_bytes != 0 && std::fwrite(data, 1, size_bytes, file_) != size_bytes) {
    return Fail("write");
  }
  return Status::Ok();
}

Status AtomicFileWriter::WriteAt(uint64_t offset, const void* data, std::size_t size_bytes) {
  if (!error_.ok()) return error_;
  if (::fseeko(file_, static_cast<off_t>(offset), SEEK_SET) != 0) return Fail("seek");
  PHASOR_RETURN_IF_ERROR(Write(data, size_bytes));
  if (::fseeko(file_, 0, SEEK_END) != 0) return Fail("seek");
  return Status::Ok();
}

Status AtomicFileWriter::Commit() {
  if (error_.ok() && (std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0)) {
    (void)Fail("write");
  }
  // The lock is held until after the rename: until then the file must not look like a leftover.
  if (error_.ok() && ::rename(temp_path_.c_str(), path_.c_str()) != 0) {
    error_ = WriteErrorStatus(path_, "rename into place");
  }
  if (!error_.ok()) ::unlink(temp_path_.c_str());
  std::fclose(file_);
  file_ = nullptr;
  if (error_.ok()) SyncFolder(ParentFolder(path_));
  return error_;
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
