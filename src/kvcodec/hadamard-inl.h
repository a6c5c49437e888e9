// One block of the transform, compiled once per CPU level. No include guard: see hadamard.cc.

// Sixteen floats; the compilers map them to what the target has. Products below are by +-1 or come
// last, so fused or not, the result has the same bits.
typedef float V16 __attribute__((vector_size(64), aligned(4)));

template <int kDistance>
inline void ButterflyInside(V16* v);

template <>
inline void ButterflyInside<1>(V16* v) {
  constexpr V16 kSign = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
  *v = *v * kSign +
       __builtin_shufflevector(*v, *v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}
template <>
inline void ButterflyInside<2>(V16* v) {
  constexpr V16 kSign = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
  *v = *v * kSign +
       __builtin_shufflevector(*v, *v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
}
template <>
inline void ButterflyInside<4>(V16* v) {
  constexpr V16 kSign = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
  *v = *v * kSign +
       __builtin_shufflevector(*v, *v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
}
template <>
inline void ButterflyInside<8>(V16* v) {
  constexpr V16 kSign = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
  *v = *v * kSign +
       __builtin_shufflevector(*v, *v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

// n: a power of two, at least 16.
void TransformBlock(float* x, int n, float norm) {
  for (int i = 0; i < n; i += 16) {
    V16 v;
    __builtin_memcpy(&v, x + i, sizeof(v));
    ButterflyInside<1>(&v);
    ButterflyInside<2>(&v);
    ButterflyInside<4>(&v);
    ButterflyInside<8>(&v);
    if (n == 16) v = v * norm;
    __builtin_memcpy(x + i, &v, sizeof(v));
  }
  for (int h = 16; h < n; h *= 2) {
    const float factor = 2 * h == n ? norm : 1.0f;
    for (int base = 0; base < n; base += 2 * h) {
      for (int i = base; i < base + h; i += 16) {
        V16 a, b;
        __builtin_memcpy(&a, x + i, sizeof(a));
        __builtin_memcpy(&b, x + i + h, sizeof(b));
        V16 sum = a + b, difference = a - b;
        sum = sum * factor;
        difference = difference * factor;
        __builtin_memcpy(x + i, &sum, sizeof(sum));
        __builtin_memcpy(x + i + h, &difference, sizeof(difference));
      }
    }
  }
}
