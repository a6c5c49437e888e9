// Rows and strips of value_stretch.h, compiled once per CPU level. No include guard: see
// value_stretch.cc.

// Sixteen floats; the compilers map them to what the target has.
typedef float V16 __attribute__((vector_size(64), aligned(4), may_alias));

typedef int32_t I16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint8_t B16 __attribute__((vector_size(16), aligned(1), may_alias));
constexpr V16 kZero = {};

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
  const V16& step = Load16(s.step);
  alignas(64) float inverse_array[16], counts_array[16];
  for (int t = 0; t < 16; ++t) {
    counts_array[t] = s.step[t] == 0.0f ? 0.0f : 1.0f;
    inverse_array[t] = s.step[t] == 0.0f ? 0.0f : 4.0f / s.step[t];
  }
  const V16 inverse = Load16(inverse_array), counts = Load16(counts_array);
  for (int c = 0; c < D; ++c) {
    const float* weight = s.feedback_DD + static_cast<long>(c) * D;
    V16 x[4] = {Load16(s.x_DT + 16L * c), {}, {}, {}};
    int r = 0;
    for (; r + 4 <= c; r += 4) {
      x[0] = x[0] + weight[r] * Load16(s.residual_DT + 16L * r);
      x[1] = x[1] + weight[r + 1] * Load16(s.residual_DT + 16L * (r + 1));
      x[2] = x[2] + weight[r + 2] * Load16(s.residual_DT + 16L * (r + 2));
      x[3] = x[3] + weight[r + 3] * Load16(s.residual_DT + 16L * (r + 3));
    }
    for (; r < c; ++r) x[1] = x[1] + weight[r] * Load16(s.residual_DT + 16L * r);
    const V16 target = (x[0] + x[1]) + (x[2] + x[3]);
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const V16 low = kZero - kFineLevels, high = kZero + (kFineLevels - 1);
    V16 quarters = target * inverse;
    quarters = quarters < low ? low : quarters;
    quarters = quarters > high ? high : quarters;
    quarters = (quarters + kRound) - kRound;
    alignas(64) int32_t at[16], entry[16];
    *reinterpret_cast<I16*>(at) = __builtin_convertvector(quarters, I16) + kFineLevels;
    for (int t = 0; t < 16; ++t) entry[t] = s.nearest[t][at[t]];
    const I16& found = *reinterpret_cast<const I16*>(entry);
    *reinterpret_cast<B16*>(s.codes_DT + 16L * c) = __builtin_convertvector(found & 255, B16);
    const V16 level = __builtin_convertvector(found >> 8, V16);
    At16(s.residual_DT + 16L * c) = (step * level - target) * counts;
  }
}
