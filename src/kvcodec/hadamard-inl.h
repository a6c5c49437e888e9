// One block of the transform, compiled once per CPU level. No include guard: see hadamard.cc.
// Products are by +-1 or come last, so fused or not, the result has the same bits.

// Lane i with lane i ^ kDistance.
template <int kDistance>
PHASOR_INLINE VF SwapLanes(VF v) {
  VI from;
  for (int i = 0; i < kLanes; ++i) from[i] = i ^ kDistance;
  return Rearrange(v, from);
}
template <int kDistance>
PHASOR_INLINE VF ButterflyInside(VF v) {
  VF sign;
  for (int i = 0; i < kLanes; ++i) sign[i] = (i & kDistance) == 0 ? 1.0f : -1.0f;
  return v * sign + SwapLanes<kDistance>(v);
}

// All steps inside a vector and, from there, kSteps steps between 2^kSteps neighbours.
template <int kSteps>
PHASOR_INLINE void First(float* x) {
  VF v[1 << kSteps];
  PHASOR_UNROLL for (int i = 0; i < 1 << kSteps; ++i) {
    v[i] = Load(x + i * kLanes);
    v[i] = ButterflyInside<1>(v[i]);
    v[i] = ButterflyInside<2>(v[i]);
    if constexpr (kLanes > 4) v[i] = ButterflyInside<4>(v[i]);
    if constexpr (kLanes > 8) v[i] = ButterflyInside<8>(v[i]);
  }
  PHASOR_UNROLL for (int s = 0; s < kSteps; ++s) {
    PHASOR_UNROLL for (int i = 0; i < 1 << kSteps; ++i) {
      const int h = 1 << s;
      if ((i & h) != 0) continue;
      const VF a = v[i], b = v[i + h];
      v[i] = a + b;
      v[i + h] = a - b;
    }
  }
  PHASOR_UNROLL for (int i = 0; i < 1 << kSteps; ++i) Store(v[i], x + i * kLanes);
}

// n: a power of two, at least 16.
void TransformBlock(float* x, int n, float norm) {
  int h = kLanes;
  if (n >= 8 * kLanes) {
    for (int i = 0; i < n; i += 8 * kLanes) First<3>(x + i);
    h = 8 * kLanes;
  } else if (n >= 4 * kLanes) {
    for (int i = 0; i < n; i += 4 * kLanes) First<2>(x + i);
    h = 4 * kLanes;
  } else {
    for (int i = 0; i < n; i += kLanes) First<0>(x + i);
  }
  for (; h < n; h *= 2) {
    for (int base = 0; base < n; base += 2 * h) {
      for (int i = base; i < base + h; i += kLanes) {
        const VF a = Load(x + i), b = Load(x + i + h);
        Store(a + b, x + i);
        Store(a - b, x + i + h);
      }
    }
  }
  for (int i = 0; i < n; i += kLanes) Store(Load(x + i) * norm, x + i);
}
