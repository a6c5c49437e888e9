// Rows and strips of value_stretch.h, compiled once per CPU level. No include guard: see
// value_stretch.cc.

// Sixteen floats; the compilers map them to what the target has.
typedef float V16 __attribute__((vector_size(64), aligned(4), may_alias));

inline const V16& Load16(const float* x) { return *reinterpret_cast<const V16*>(x); }
inline V16& At16(float* x) { return *reinterpret_cast<V16*>(x); }

inline float Sum16(const V16& v) {
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = (v[i] + v[4 + i]) + (v[8 + i] + v[12 + i]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// out[padded] = x + sum_i factor[i] (u_i . x) u_i. Both padded to a multiple of 16, with zeros.
void StretchRow(const float* x, int padded, const float* directions, const float* factor, int n,
                float* out) {
  for (int c = 0; c < padded; c += 16) {
    At16(out + c) = Load16(x + c);
  }
  for (int i = 0; i < n; ++i) {
    const float* u = directions + static_cast<long>(i) * padded;
    V16 product = Load16(u) * Load16(x);
    for (int c = 16; c < padded; c += 16) product = product + Load16(u + c) * Load16(x + c);
    const float part = factor[i] * Sum16(product);
    for (int c = 0; c < padded; c += 16) {
      At16(out + c) = Load16(out + c) + part * Load16(u + c);
    }
  }
}

void FeedBack(const FeedbackStrip& s) {
  const int D = s.head_dim;
  V16 inverse, step = Load16(s.step);
  for (int t = 0; t < 16; ++t) inverse[t] = step[t] == 0.0f ? 0.0f : 4.0f / step[t];
  for (int c = 0; c < D; ++c) {
    const float* weight = s.feedback_DD + static_cast<long>(c) * D;
    V16 x[2] = {Load16(s.x_DT + 16L * c), {}};
    int r = 0;
    for (; r + 2 <= c; r += 2) {
      x[0] = x[0] + weight[r] * Load16(s.residual_DT + 16L * r);
      x[1] = x[1] + weight[r + 1] * Load16(s.residual_DT + 16L * (r + 1));
    }
    if (r < c) x[0] = x[0] + weight[r] * Load16(s.residual_DT + 16L * r);
    const V16 target = x[0] + x[1];
    const V16 quarters = target * inverse;
    V16 residual = {};
    for (int t = 0; t < 16; ++t) {
      if (step[t] == 0.0f) continue;
      constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
      float q = quarters[t] < -kFineLevels ? -kFineLevels : quarters[t];
      q = q > kFineLevels - 1 ? kFineLevels - 1 : q;
      const int at = static_cast<int>((q + kRound) - kRound) + kFineLevels;
      const uint8_t code = s.code_of_quarter[t][at];
      s.codes_DT[16L * c + t] = code;
      residual[t] = step[t] * static_cast<float>(s.level[t][code]) - target[t];
    }
    At16(s.residual_DT + 16L * c) = residual;
  }
}
