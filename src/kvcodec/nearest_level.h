// The nearest level of a book, by look-ups in 16 bytes, for lanes that have a book each.
//
// Numbers come in quarters of a level, -256 .. 255. They fall into at most 16 buckets, none of
// which has more than two places where the nearest level changes. So a code is that of the
// beginning of the bucket, and one more for each of two places that the number has reached.
#pragma once

#include <cstdint>

#include "kvcodec/int_kernels.h"

namespace phasor {

inline constexpr int kFineLevels = 256;  // quarters on either side of 0

// Books of 3 or 4 bits, two tables of 16 entries. 4 bits: a book is a table. 3 bits: four books of
// 8 buckets, the lower book of a table in entries 0 .. 7.
struct NearestTables {
  explicit NearestTables(const IntLevels& levels);

  int TableOf(int book) const { return book >> (book_bits - 1); }
  int EntryOf(int book) const { return book_bits == 2 ? (book & 1) * 8 : 0; }
  // Of one number, kFineLevels quarters on either side of 0 at most.
  uint8_t NearestCode(int book, int quarters) const;

  int book_bits;
  int shift;                        // log2 of the quarters in a bucket
  alignas(16) uint8_t code[2][16];  // nearest to the beginning of the bucket; of two, the lower
  // Quarters into the bucket from which the code is one more, and two more; 127: nowhere.
  alignas(16) int8_t first[2][16], second[2][16];
  alignas(16) int8_t level[2][16];  // [table][entry of the book | code]
};

}  // namespace phasor
