// Rows and strips of value_stretch.h, compiled once per CPU level. No include guard: see
// value_stretch.cc.

#include "kvcodec/nearest_level-inl.h"

// part[i] = factor[i] * (u_i . x) for kN directions of `padded` numbers.
template <int kN>
PHASOR_INLINE void Project(const float* x, int padded, const float* u, const float* factor,
                           float* part) {
  VF sum[kN];
  PHASOR_UNROLL for (int i = 0; i < kN; ++i) sum[i] = VF{};
  for (int d = 0; d < padded; d += kLanes) {
    const VF v = Load(x + d);
    PHASOR_UNROLL for (int i = 0; i < kN; ++i) sum[i] += v * Load(u + i * padded + d);
  }
  if constexpr (kN == 4) {
    *reinterpret_cast<V4*>(part) = *reinterpret_cast<const V4*>(factor) * SumsOfLanes(sum);
  } else {
    PHASOR_UNROLL for (int i = 0; i < kN; ++i) part[i] = factor[i] * SumOfLanes(sum[i]);
  }
}

// out = x + sum_i part[i] u_i of kVectors vectors, even and odd i apart: a sum waits for its last
// term.
template <int kVectors>
PHASOR_INLINE void AddParts(const float* x, const float* part, const float* u, int padded, int n,
                            float* out) {
  VF even[kVectors], odd[kVectors];
  PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
    even[v] = Load(x + v * kLanes);
    odd[v] = VF{};
  }
  int k = 0;
  for (; k + 2 <= n; k += 2, u += 2 * padded) {
    PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
      even[v] += part[k] * Load(u + v * kLanes);
      odd[v] += part[k + 1] * Load(u + padded + v * kLanes);
    }
  }
  if (k < n) {
    PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) even[v] += part[k] * Load(u + v * kLanes);
  }
  PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) Store(even[v] + odd[v], out + v * kLanes);
}

// out[padded] = x + sum_i factor[i] (u_i . x) u_i. Both padded to a multiple of 16, with zeros; out
// may be x.
void StretchRow(const float* x, int padded, const float* directions, const float* factor, int n,
                float* out) {
  float part[kMaxHeadDim];
  int i = 0;
  for (; i + 4 <= n; i += 4) {
    Project<4>(x, padded, directions + i * padded, factor + i, part + i);
  }
  for (; i < n; ++i) Project<1>(x, padded, directions + i * padded, factor + i, part + i);
  int d = 0;
  for (; d + 4 * kLanes <= padded; d += 4 * kLanes) {
    AddParts<4>(x + d, part, directions + d, padded, n, out + d);
  }
  for (; d < padded; d += kLanes) {
    AddParts<1>(x + d, part, directions + d, padded, n, out + d);
  }
}

// Lanes of 16 tokens from x on.
PHASOR_INLINE void LoadLanes(const float* x, VF (&v)[kParts]) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) v[p] = Load(x + p * kLanes);
}
PHASOR_INLINE void StoreLanes(const VF (&v)[kParts], float* x) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) Store(v[p], x + p * kLanes);
}
PHASOR_INLINE void AddLanes(float weight, const float* x, VF (&sum)[kParts]) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) sum[p] += weight * Load(x + p * kLanes);
}

// x + sum_{r < c} weight[r] residual[r]. The last residuals come last: they are just being made.
PHASOR_INLINE void FeedbackTarget(const float* x, const float* weight, const float* residual_DT,
                                  int c, VF (&target)[kParts]) {
  VF odd[kParts] = {};
  LoadLanes(x, target);
  int r = 0;
  for (; r + 2 <= c; r += 2) {
    AddLanes(weight[r], residual_DT + 16L * r, target);
    AddLanes(weight[r + 1], residual_DT + 16L * (r + 1), odd);
  }
  if (r < c) AddLanes(weight[r], residual_DT + 16L * r, target);
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) target[p] += odd[p];
}

void FeedBack(const FeedbackStrip& s) {
  const NearestTables& t = *s.tables;
  alignas(64) float inverse[16];
  alignas(16) uint8_t low_array[16], other_array[16], live_array[16];
  for (int i = 0; i < 16; ++i) {
    inverse[i] = s.step[i] == 0.0f ? 0.0f : 4.0f / s.step[i];
    low_array[i] = static_cast<uint8_t>(t.EntryOf(s.book[i]));
    other_array[i] = t.TableOf(s.book[i]) == 0 ? 0 : 255;
    live_array[i] = s.step[i] == 0.0f ? 0 : 255;
  }
  const B16 low = LoadBytes(low_array), other = LoadBytes(other_array),
            live = LoadBytes(live_array);
  for (int c = 0; c < s.head_dim; ++c) {
    VF target[kParts], quarters[kParts], level[kParts], residual[kParts];
    FeedbackTarget(s.x_DT + 16L * c, s.feedback_DD + static_cast<long>(c) * s.head_dim,
                   s.residual_DT, c, target);
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      quarters[p] = ToQuarters(target[p], Load(inverse + p * kLanes));
    }
    const Place place = PlaceOf(quarters, t.shift);
    const B16 entry = place.bucket | low;
    const B16 code = CountReached(LookUp(t.code, entry, other), place.inside,
                                  LookUp(t.first, entry, other), LookUp(t.second, entry, other));
    *reinterpret_cast<B16*>(s.codes_DT + 16L * c) = code & live;
    ToFloats(LookUp(t.level, code | low, other), level);
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      const VF step = Load(s.step + p * kLanes);
      residual[p] = step == 0.0f ? VF{} : step * level[p] - target[p];
    }
    StoreLanes(level, s.level_DT + 16L * c);
    StoreLanes(residual, s.residual_DT + 16L * c);
  }
}

// Sums over the channels of x and level of kN directions, one of vector p's lanes each.
template <int kN>
PHASOR_INLINE void AddAlong(const StripToWeigh& s, int first, int p, VF* square, VF* product) {
  VF of_x[kN], of_level[kN];
  PHASOR_UNROLL for (int i = 0; i < kN; ++i) of_x[i] = of_level[i] = VF{};
  const float* w = s.rotated + static_cast<long>(first) * s.padded;
  for (int d = 0; d < s.head_dim; ++d) {
    const VF x = Load(s.x_DT + 16L * d + p * kLanes);
    const VF level = Load(s.level_DT + 16L * d + p * kLanes);
    PHASOR_UNROLL for (int i = 0; i < kN; ++i) {
      of_x[i] += w[i * s.padded + d] * x;
      of_level[i] += w[i * s.padded + d] * level;
    }
  }
  PHASOR_UNROLL for (int i = 0; i < kN; ++i) {
    *square += s.weigh[first + i] * of_x[i] * of_x[i];
    *product += s.weigh[first + i] * of_x[i] * of_level[i];
  }
}

// x . x and x . level of 16 lanes, with what errors along the rotated directions weigh more:
// x . x + sum_i weigh[i] (w_i . x)^2, and the same of w_i . x times w_i . level.
void WeighStrip(const StripToWeigh& s) {
  for (int p = 0; p < kParts; ++p) {
    VF square = {}, product = {};
    for (int d = 0; d < s.head_dim; ++d) {
      const VF x = Load(s.x_DT + 16L * d + p * kLanes);
      square += x * x;
      product += x * Load(s.level_DT + 16L * d + p * kLanes);
    }
    int i = 0;
    for (; i + 4 <= s.n; i += 4) AddAlong<4>(s, i, p, &square, &product);
    for (; i < s.n; ++i) AddAlong<1>(s, i, p, &square, &product);
    Store(square, s.square + p * kLanes);
    Store(product, s.product + p * kLanes);
  }
}
