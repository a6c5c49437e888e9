// Memory for data that is read from end to end again and again, such as weights: on pages of 2 MiB
// where the system has them. Streaming through pages of 4 KiB costs a walk through the page tables
// every 64 cache lines, and hardware prefetch stops at each page's end.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

namespace phasor {

// Owning, zeroed, 64-byte aligned bytes. Move-only. Blocks are cut from shared chunks, so that
// matrices much smaller than a huge page lie side by side; a chunk is given back to the system when
// its last block is gone. Allocation is thread-safe.
class HugeBlock {
 public:
  HugeBlock() = default;
  // Throws std::bad_alloc when the system has no memory.
  explicit HugeBlock(std::size_t size_bytes);
  HugeBlock(HugeBlock&& o) noexcept { *this = std::move(o); }
  HugeBlock& operator=(HugeBlock&& o) noexcept {
    std::swap(chunk_, o.chunk_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::shared_ptr<void> chunk_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace phasor
