// Hashes of the store: XXH3 of bytes. They find accidents, not attacks: whoever can write into a
// store's folder can make it say anything.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace phasor {

// 128 bits of XXH3, in the order of its canonical form (most significant byte first).
struct Hash128 {
  std::array<uint8_t, 16> bytes = {};

  bool operator==(const Hash128&) const = default;
  auto operator<=>(const Hash128&) const = default;
  // 32 lower-case hex digits.
  std::string Hex() const;
};

uint64_t HashBytes(std::span<const std::byte> bytes);  // XXH3, 64 bits, seed 0

// XXH3-128 of everything added, in order. Numbers and lengths go in as 8 little-endian bytes, and
// strings and arrays with their length in front, so that different inputs differ as byte strings.
class Hasher128 {
 public:
  Hasher128();
  ~Hasher128();
  Hasher128(const Hasher128&) = delete;
  Hasher128& operator=(const Hasher128&) = delete;

  void AddNumber(uint64_t value);
  void AddBytes(std::span<const std::byte> bytes);
  void AddString(std::string_view text) { AddBytes(std::as_bytes(std::span(text))); }
  Hash128 Finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phasor
