// Vectors of nearest_level.h, compiled once per CPU level (simd/each_level-inl.h). No include
// guard.

// x * inverse rounded to a whole number of quarters and cut to the range of the tables.
PHASOR_INLINE VF ToQuarters(VF x, VF inverse) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const VF low = VF{} - kFineLevels, high = VF{} + (kFineLevels - 1);
  VF quarters = x * inverse;
  quarters = quarters < low ? low : quarters;
  quarters = quarters > high ? high : quarters;
  return (quarters + kRound) - kRound;
}

// Entry e of each lane's table: table 1 where `other` is 255, 0 where it is 0.
PHASOR_INLINE B16 LookUp(const void* tables, B16 entry, B16 other) {
  const auto* bytes = static_cast<const uint8_t*>(tables);
  const B16 zero = Rearrange(LoadBytes(bytes), entry);
  const B16 one = Rearrange(LoadBytes(bytes + 16), entry);
  return (zero & ~other) | (one & other);
}

// Where 16 numbers in quarters lie: the bucket, and quarters into it.
struct Place {
  B16 bucket;
  S16 inside;
};
PHASOR_INLINE Place PlaceOf(const VF (&quarters)[kParts], int shift) {
  VI bucket[kParts], inside[kParts];
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    const VI up = __builtin_convertvector(quarters[p], VI) + kFineLevels;
    bucket[p] = up >> shift;
    inside[p] = up & ((1 << shift) - 1);
  }
  return {ToBytes(bucket), reinterpret_cast<S16>(ToBytes(inside))};
}

// The code of each lane: one more for each place that is reached, as comparisons are 0 or -1.
PHASOR_INLINE B16 CountReached(B16 code, S16 inside, B16 first, B16 second) {
  return code - reinterpret_cast<B16>(inside >= reinterpret_cast<S16>(first)) -
         reinterpret_cast<B16>(inside >= reinterpret_cast<S16>(second));
}

// What lanes with a book each need: where its entries begin in a table, and which table (LookUp).
struct LaneBooks {
  B16 low, other;
};
// NearestTables::EntryOf and TableOf of 16 books.
PHASOR_INLINE LaneBooks BooksOf(const NearestTables& t, B16 book) {
  const auto in_table = static_cast<uint8_t>(t.book_bits == 2 ? 1 : 0);
  const B16 other = reinterpret_cast<B16>((book & ~(B16{} + in_table)) != 0);
  return {(book & in_table) * static_cast<uint8_t>(8), other};
}

// Codes nearest to 16 numbers in quarters, and their levels.
PHASOR_INLINE B16 NearestCodes(const NearestTables& t, const LaneBooks& books,
                               const VF (&quarters)[kParts], VF (&level)[kParts]) {
  const Place place = PlaceOf(quarters, t.shift);
  const B16 entry = place.bucket | books.low;
  const B16 code =
      CountReached(LookUp(t.code, entry, books.other), place.inside,
                   LookUp(t.first, entry, books.other), LookUp(t.second, entry, books.other));
  ToFloats(LookUp(t.level, code | books.low, books.other), level);
  return code;
}
