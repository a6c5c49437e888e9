#include "base/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "base/aligned.h"

namespace phasor {
namespace {

// What a process can address; above it sums of sizes could wrap.
constexpr std::size_t kAddressSpaceBytes = std::size_t{1} << 47;
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
// Address space of a chunk. Pages that no block touches take no memory.
constexpr std::size_t kChunkBytes = std::size_t{64} << 20;

#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
constexpr bool kShareChunks = false;  // so that reads past a block's end are found
#else
constexpr bool kShareChunks = true;
#endif

std::size_t RoundUp(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }

// Maps whole huge pages, aligned to their size, and asks the system to back them as such.
std::shared_ptr<std::byte> MapChunk(std::size_t size_bytes) {
  const std::size_t mapped_bytes = size_bytes + kHugePageBytes;
  void* mapped =
      mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(mapped);
  std::byte* aligned = static_cast<std::byte*>(mapped) + (RoundUp(start, kHugePageBytes) - start);
#if defined(MADV_HUGEPAGE)
  // Refused where the system has no huge pages: then these are ordinary ones.
  (void)madvise(aligned, size_bytes, MADV_HUGEPAGE);
#endif
  return {aligned, [mapped, mapped_bytes](std::byte*) { munmap(mapped, mapped_bytes); }};
}

struct OpenChunk {
  std::mutex mutex;
  std::weak_ptr<std::byte> memory;  // its blocks own it
  std::size_t used_bytes = 0, size_bytes = 0;
};

OpenChunk& TheOpenChunk() {
  static OpenChunk chunk;
  return chunk;
}

}  // namespace

HugeBlock::HugeBlock(std::size_t size_bytes) : size_(size_bytes) {
  if (size_bytes > kAddressSpaceBytes) throw std::bad_alloc();
  const std::size_t needed_bytes = RoundUp(std::max<std::size_t>(1, size_bytes), kAlignment);
  if constexpr (!kShareChunks) {
    data_ = static_cast<std::byte*>(std::aligned_alloc(kAlignment, needed_bytes));
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_, 0, needed_bytes);
    chunk_ = std::shared_ptr<void>(data_, std::free);
    return;
  }
  OpenChunk& open = TheOpenChunk();
  std::lock_guard<std::mutex> lock(open.mutex);
  std::shared_ptr<std::byte> memory = open.memory.lock();
  if (memory == nullptr || needed_bytes > open.size_bytes - open.used_bytes) {
    // Room for many blocks, unless this one is large itself.
    const std::size_t chunk_bytes = std::max(kChunkBytes, RoundUp(needed_bytes, kHugePageBytes));
    memory = MapChunk(chunk_bytes);
    open.memory = memory;
    open.used_bytes = 0;
    open.size_bytes = chunk_bytes;
  }
  data_ = memory.get() + open.used_bytes;
  open.used_bytes += needed_bytes;
  chunk_ = std::move(memory);
}

}  // namespace phasor
