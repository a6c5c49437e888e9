#include "store/chunk_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <tuple>

#include "base/file.h"
#include "formats/printable.h"

namespace phasor {
namespace {

constexpr std::string_view kSpanEnding = ".span";
constexpr int64_t kNsPerSecond = 1'000'000'000;

// An exclusive lock of the folder for as long as it lives. Every holder opens the file anew, so
// threads of one process exclude each other too.
class FolderLock {
 public:
  static Result<FolderLock> Take(const std::string& folder) {
    const std::string path = folder + "/.lock";
    FolderLock lock;
    lock.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock.fd_ < 0) return Unavailable(path + ": cannot open: " + std::strerror(errno));
    int rc = 0;
    do {
      rc = ::flock(lock.fd_, LOCK_EX);
    } while (rc != 0 && errno == EINTR);
    if (rc != 0) return Unavailable(path + ": cannot lock: " + std::strerror(errno));
    return lock;
  }
  FolderLock(FolderLock&& o) noexcept { std::swap(fd_, o.fd_); }
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock() {
    if (fd_ >= 0) ::close(fd_);
  }

 private:
  FolderLock() = default;
  int fd_ = -1;
};

Status RemoveFile(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return Status::Ok();
  return Unavailable(path + ": cannot remove: " + std::strerror(errno));
}

Status NoEntry(const std::string& folder, const std::string& name) {
  return NotFound("chunk store " + folder + ": expected an entry " + Printable(name) +
                  ", found none");
}

}  // namespace

bool IsChunkName(std::string_view name) {
  constexpr std::size_t kDigits = 32;
  if (name.size() != 2 * kDigits + 1 || name[kDigits] != '-') return false;
  return name.find_first_not_of("0123456789abcdef") == kDigits &&
         name.substr(kDigits + 1).find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Result<ChunkFolder> ChunkFolder::Open(const std::string& path) {
  PHASOR_RETURN_IF_ERROR(MakeDirs(path));
  RemoveLeftovers(path, [](std::string_view target) {
    return target.ends_with(kSpanEnding) &&
           IsChunkName(target.substr(0, target.size() - kSpanEnding.size()));
  });
  return ChunkFolder(path);
}

Result<std::vector<ChunkEntry>> ChunkFolder::List(std::string_view prefix) const {
  std::vector<ChunkEntry> entries;
  std::error_code ec;
  std::filesystem::directory_iterator it(path_, ec);
  for (const std::filesystem::directory_iterator end; !ec && it != end; it.increment(ec)) {
    std::string name = it->path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(kSpanEnding)) continue;
    name.resize(name.size() - kSpanEnding.size());
    struct stat st;
    // An entry may go between the listing and here.
    if (!IsChunkName(name) || ::stat(PathOf(name).c_str(), &st) != 0 || !S_ISREG(st.st_mode)) {
      continue;
    }
    entries.push_back({.name = name,
                       .bytes = static_cast<uint64_t>(st.st_size),
                       .last_used_ns = st.st_mtim.tv_sec * kNsPerSecond + st.st_mtim.tv_nsec,
                       .pinned = FileExists(PinOf(name))});
  }
  if (ec) return Unavailable(path_ + ": cannot list: " + ec.message());
  std::sort(entries.begin(), entries.end(),
            [](const ChunkEntry& a, const ChunkEntry& b) { return a.name < b.name; });
  return entries;
}

void ChunkFolder::Touch(const std::string& name) const {
  // The kernel's own "now" advances in steps of milliseconds; the order of uses needs more.
  struct timespec now[2];
  ::clock_gettime(CLOCK_REALTIME, &now[0]);
  now[1] = now[0];
  (void)::utimensat(AT_FDCWD, PathOf(name).c_str(), now, 0);
}

Status ChunkFolder::Pin(const std::string& name) const {
  if (!IsChunkName(name)) return NoEntry(path_, name);
  PHASOR_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(path_));
  if (!FileExists(PathOf(name))) return NoEntry(path_, name);
  const int fd = ::open(PinOf(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return ResourceExhausted(PinOf(name) + ": cannot create: " + std::strerror(errno));
  ::close(fd);
  SyncFolder(path_);
  return Status::Ok();
}

Status ChunkFolder::Unpin(const std::string& name) const {
  if (!IsChunkName(name)) return NoEntry(path_, name);
  PHASOR_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(path_));
  PHASOR_RETURN_IF_ERROR(RemoveFile(PinOf(name)));
  return FileExists(PathOf(name)) ? Status::Ok() : NoEntry(path_, name);
}

Status ChunkFolder::Remove(const std::string& name) const {
  if (!IsChunkName(name)) return NoEntry(path_, name);
  PHASOR_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(path_));
  if (!FileExists(PathOf(name))) return NoEntry(path_, name);
  if (FileExists(PinOf(name))) {
    return InvalidArgument("chunk store " + path_ + ": " + name +
                           ": expected an entry that is not pinned, found a pinned one");
  }
  return RemoveFile(PathOf(name));
}

Result<std::vector<std::string>> ChunkFolder::Evict(uint64_t max_bytes,
                                                    const std::string& keep) const {
  PHASOR_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(path_));
  PHASOR_ASSIGN_OR_RETURN(std::vector<ChunkEntry> entries, List());
  uint64_t total = 0;
  for (const ChunkEntry& e : entries) total += e.bytes;
  std::sort(entries.begin(), entries.end(), [](const ChunkEntry& a, const ChunkEntry& b) {
    return std::tie(a.last_used_ns, a.name) < std::tie(b.last_used_ns, b.name);
  });
  std::vector<std::string> removed;
  for (const ChunkEntry& e : entries) {
    if (total <= max_bytes) break;
    if (e.pinned || e.name == keep) continue;
    PHASOR_RETURN_IF_ERROR(RemoveFile(PathOf(e.name)));
    total -= e.bytes;
    removed.push_back(e.name);
  }
  if (total > max_bytes) {
    return ResourceExhausted("chunk store " + path_ + ": expected at most " +
                             std::to_string(max_bytes) + " bytes, found " + std::to_string(total) +
                             " that are pinned or in use");
  }
  return removed;
}

}  // namespace phasor
