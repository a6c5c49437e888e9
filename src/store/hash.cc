#include "store/hash.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

#include "base/check.h"

namespace phasor {

static_assert(std::endian::native == std::endian::little,
              "numbers are hashed and stored as they lie in memory");

std::string Hash128::Hex() const {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (uint8_t b : bytes) out += {kDigits[b >> 4], kDigits[b & 15]};
  return out;
}

uint64_t HashBytes(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

struct Hasher128::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() { PHASOR_CHECK(xxh != nullptr); }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Hasher128::Hasher128() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
Hasher128::~Hasher128() = default;

void Hasher128::AddNumber(uint64_t value) {
  XXH3_128bits_update(state_->xxh, &value, sizeof(value));
}

void Hasher128::AddBytes(std::span<const std::byte> bytes) {
  AddNumber(bytes.size());
  if (!bytes.empty()) XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

Hash128 Hasher128::Finish() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->xxh));
  Hash128 hash;
  std::memcpy(hash.bytes.data(), canonical.digest, sizeof(canonical.digest));
  return hash;
}

}  // namespace phasor
