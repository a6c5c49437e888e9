// NearestRow, compiled once per CPU level. No include guard: see nearest_level.cc.

#include "kvcodec/nearest_level-inl.h"

NearestRowSums NearestInRow(const NearestRowArgs& a) {
  const NearestTables& t = *a.tables;
  const int table = t.TableOf(a.book);
  const VF inverse = VF{} + (a.d == 0 ? 0.0f : 4.0f / a.d);
  const B16 low = B16{} + static_cast<uint8_t>(t.EntryOf(a.book));
  VF product = {}, square = {};
  for (int i = 0; i < a.n; i += 16) {
    VF quarters[kParts], level[kParts];
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      quarters[p] = ToQuarters(Load(a.x + i + p * kLanes), inverse);
    }
    const Place place = PlaceOf(quarters, t.shift);
    const B16 entry = place.bucket | low;
    const B16 code = CountReached(LookUp(t.code[table], entry), place.inside,
                                  LookUp(t.first[table], entry), LookUp(t.second[table], entry));
    ToFloats(LookUp(t.level[table], code | low), level);
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      Store(quarters[p], a.quarters + i + p * kLanes);
      Store(level[p], a.level + i + p * kLanes);
    }
    const int n = a.n - i < 16 ? a.n - i : 16;
    if (a.codes != nullptr) __builtin_memcpy(a.codes + i, &code, static_cast<unsigned long>(n));
    for (int j = n; j < 16; ++j) a.quarters[i + j] = a.level[i + j] = 0;
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      if (n < 16) level[p] = Load(a.level + i + p * kLanes);
      product += quarters[p] * level[p];
      square += level[p] * level[p];
    }
  }
  return {SumOfLanes(product), SumOfLanes(square)};
}

float LargestInRow(const float* x, int n) {
  VF largest = {};
  for (int i = 0; i < n; i += 16) {
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      const VF v = Load(x + i + p * kLanes);
      const VF size = v < 0.0f ? -v : v;
      largest = size > largest ? size : largest;
    }
  }
  alignas(64) float lane[kLanes];
  Store(largest, lane);
  float top = 0;
  for (int i = 0; i < kLanes; ++i) top = lane[i] > top ? lane[i] : top;
  return top;
}
