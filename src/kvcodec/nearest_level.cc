#include "kvcodec/nearest_level.h"

#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace phasor {

NearestTables::NearestTables(const IntLevels& levels)
    : book_bits(levels.book_bits), shift(levels.bits == 4 ? 5 : 6) {
  const int n_codes = 1 << levels.bits, n_buckets = 2 * kFineLevels >> shift;
  std::memset(first, 127, sizeof(first));
  std::memset(second, 127, sizeof(second));
  for (int book = 0; book < 1 << book_bits; ++book) {
    const int8_t* level_C = levels.level + book * n_codes;
    const int table = TableOf(book), entry = EntryOf(book);
    // Between two the lower one.
    auto closest = [&](int quarters) {
      int best = 0;
      for (int c = 1; c < n_codes; ++c) {
        if (std::abs(quarters - 4 * level_C[c]) < std::abs(quarters - 4 * level_C[best])) best = c;
      }
      return best;
    };
    for (int c = 0; c < n_codes; ++c) level[table][entry + c] = level_C[c];
    for (int bucket = 0; bucket < n_buckets; ++bucket) {
      const int begin = (bucket << shift) - kFineLevels, base = closest(begin);
      code[table][entry + bucket] = static_cast<uint8_t>(base);
      for (int inside = (1 << shift) - 1; inside > 0; --inside) {
        const int more = closest(begin + inside) - base;
        PHASOR_CHECK(more >= 0 && more <= 2);
        if (more >= 1) first[table][entry + bucket] = static_cast<int8_t>(inside);
        if (more == 2) second[table][entry + bucket] = static_cast<int8_t>(inside);
      }
    }
  }
}

uint8_t NearestTables::NearestCode(int book, int quarters) const {
  const int up = quarters + kFineLevels, inside = up & ((1 << shift) - 1);
  const int table = TableOf(book), entry = EntryOf(book) + (up >> shift);
  return static_cast<uint8_t>(code[table][entry] + (inside >= first[table][entry] ? 1 : 0) +
                              (inside >= second[table][entry] ? 1 : 0));
}

}  // namespace phasor
