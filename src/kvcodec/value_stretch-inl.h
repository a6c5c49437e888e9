// Rows and strips of value_stretch.h, compiled once per CPU level. No include guard: see
// value_stretch.cc.

#include "kvcodec/nearest_level-inl.h"

// part[r][i] = factor[i] * (u_i . x_r) for kN directions of `padded` numbers and kRows rows,
// `stride` apart; parts of a row lie kMaxHeadDim apart.
template <int kN, int kRows>
PHASOR_INLINE void Project(const float* x, long stride, int padded, const float* u,
                           const float* factor, float* part) {
  VF sum[kRows][kN];
  PHASOR_UNROLL for (int r = 0; r < kRows; ++r) {
    PHASOR_UNROLL for (int i = 0; i < kN; ++i) sum[r][i] = VF{};
  }
  for (int d = 0; d < padded; d += kLanes) {
    PHASOR_UNROLL for (int i = 0; i < kN; ++i) {
      const VF along = Load(u + i * padded + d);
      PHASOR_UNROLL for (int r = 0; r < kRows; ++r) sum[r][i] += Load(x + r * stride + d) * along;
    }
  }
  PHASOR_UNROLL for (int r = 0; r < kRows; ++r) {
    float* out = part + r * kMaxHeadDim;
    if constexpr (kN == 4) {
      *reinterpret_cast<V4*>(out) = *reinterpret_cast<const V4*>(factor) * SumsOfLanes(sum[r]);
    } else {
      PHASOR_UNROLL for (int i = 0; i < kN; ++i) out[i] = factor[i] * SumOfLanes(sum[r][i]);
    }
  }
}

// x_r += sum_i part[r][i] u_i of kVectors vectors; even and odd i apart, since a sum waits for its
// last term.
template <int kVectors, int kRows>
PHASOR_INLINE void AddParts(float* x, long stride, const float* part, const float* u, int padded,
                            int n) {
  VF even[kRows][kVectors], odd[kRows][kVectors];
  PHASOR_UNROLL for (int r = 0; r < kRows; ++r) {
    PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
      even[r][v] = Load(x + r * stride + v * kLanes);
      odd[r][v] = VF{};
    }
  }
  int k = 0;
  for (; k + 2 <= n; k += 2, u += 2 * padded) {
    PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
      const VF first = Load(u + v * kLanes), second = Load(u + padded + v * kLanes);
      PHASOR_UNROLL for (int r = 0; r < kRows; ++r) {
        even[r][v] += part[r * kMaxHeadDim + k] * first;
        odd[r][v] += part[r * kMaxHeadDim + k + 1] * second;
      }
    }
  }
  if (k < n) {
    PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
      const VF last = Load(u + v * kLanes);
      PHASOR_UNROLL for (int r = 0; r < kRows; ++r) even[r][v] += part[r * kMaxHeadDim + k] * last;
    }
  }
  PHASOR_UNROLL for (int r = 0; r < kRows; ++r) {
    PHASOR_UNROLL for (int v = 0; v < kVectors; ++v) {
      Store(even[r][v] + odd[r][v], x + r * stride + v * kLanes);
    }
  }
}

// x_r += sum_i factor[i] (u_i . x_r) u_i for kRows rows, `stride` apart; all padded to a multiple
// of 16, with zeros.
template <int kRows>
PHASOR_INLINE void StretchSome(float* x, long stride, int padded, const float* directions,
                               const float* factor, int n) {
  float part[kRows * kMaxHeadDim];
  int i = 0;
  for (; i + 4 <= n; i += 4) {
    Project<4, kRows>(x, stride, padded, directions + i * padded, factor + i, part + i);
  }
  for (; i < n; ++i) {
    Project<1, kRows>(x, stride, padded, directions + i * padded, factor + i, part + i);
  }
  // As many vectors as registers hold the sums of.
  constexpr int kVectors = kLanes == 16 ? 4 : 2;
  int d = 0;
  for (; d + kVectors * kLanes <= padded; d += kVectors * kLanes) {
    AddParts<kVectors, kRows>(x + d, stride, part, directions + d, padded, n);
  }
  for (; d < padded; d += kLanes) {
    AddParts<1, kRows>(x + d, stride, part, directions + d, padded, n);
  }
}

// n_rows rows, two at a time.
void Stretch(float* x, int n_rows, long stride, int padded, const float* directions,
             const float* factor, int n) {
  int r = 0;
  for (; r + 2 <= n_rows; r += 2) {
    StretchSome<2>(x + r * stride, stride, padded, directions, factor, n);
  }
  if (r < n_rows) StretchSome<1>(x + r * stride, stride, padded, directions, factor, n);
}

// Lanes of 16 tokens from x on.
PHASOR_INLINE void LoadLanes(const float* x, VF (&v)[kParts]) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) v[p] = Load(x + p * kLanes);
}
PHASOR_INLINE void StoreLanes(const VF (&v)[kParts], float* x) {
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) Store(v[p], x + p * kLanes);
}

// Channels whose targets stay in registers while the residuals in front of them are added.
constexpr int kChannels = 8 / kParts;

// residual_DT[c] = x_DT[c] + sum_{r < first} weight[c][r] residual_DT[r], kN channels c from
// `first` on.
template <int kN>
PHASOR_INLINE void AddEarlier(const FeedbackStrip& s, int first) {
  VF target[kN][kParts];
  const float* weight = s.feedback_DD + static_cast<long>(first) * s.head_dim;
  PHASOR_UNROLL for (int k = 0; k < kN; ++k) LoadLanes(s.x_DT + 16L * (first + k), target[k]);
  for (int r = 0; r < first; ++r) {
    VF residual[kParts];
    LoadLanes(s.residual_DT + 16L * r, residual);
    PHASOR_UNROLL for (int k = 0; k < kN; ++k) {
      PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
        target[k][p] += weight[static_cast<long>(k) * s.head_dim + r] * residual[p];
      }
    }
  }
  PHASOR_UNROLL for (int k = 0; k < kN; ++k) {
    StoreLanes(target[k], s.residual_DT + 16L * (first + k));
  }
}

// What FeedBack needs of the 16 lanes of a strip.
struct StripLanes {
  alignas(64) float inverse[16];  // quarters of a level per unit
  LaneBooks books;
  B16 live;
};

PHASOR_INLINE StripLanes LanesOf(const FeedbackStrip& s) {
  StripLanes lanes;
  alignas(16) uint8_t live[16];
  for (int i = 0; i < 16; ++i) {
    lanes.inverse[i] = s.step[i] == 0.0f ? 0.0f : 4.0f / s.step[i];
    live[i] = s.step[i] == 0.0f ? 0 : 255;
  }
  lanes.books = BooksOf(*s.tables, LoadBytes(s.book));
  lanes.live = LoadBytes(live);
  return lanes;
}

// Rounds channel c from the target in its row of residuals, puts the residual there and adds its
// part to the targets of the channels up to `end`.
PHASOR_INLINE void RoundChannel(const FeedbackStrip& s, const StripLanes& lanes, int c, int end) {
  VF target[kParts], quarters[kParts], level[kParts], residual[kParts];
  LoadLanes(s.residual_DT + 16L * c, target);
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    quarters[p] = ToQuarters(target[p], Load(lanes.inverse + p * kLanes));
  }
  const B16 code = NearestCodes(*s.tables, lanes.books, quarters, level);
  *reinterpret_cast<B16*>(s.codes_DT + 16L * c) = code & lanes.live;
  PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
    const VF step = Load(s.step + p * kLanes);
    residual[p] = step == 0.0f ? VF{} : step * level[p] - target[p];
  }
  StoreLanes(level, s.level_DT + 16L * c);
  StoreLanes(residual, s.residual_DT + 16L * c);
  for (int k = c + 1; k < end; ++k) {
    const float weight = s.feedback_DD[static_cast<long>(k) * s.head_dim + c];
    PHASOR_UNROLL for (int p = 0; p < kParts; ++p) {
      float* at = s.residual_DT + 16L * k + p * kLanes;
      Store(Load(at) + weight * residual[p], at);
    }
  }
}

template <int kN>
PHASOR_INLINE void RoundChannels(const FeedbackStrip* strips, const StripLanes* lanes, int n,
                                 int first) {
  for (int i = 0; i < n; ++i) AddEarlier<kN>(strips[i], first);
  for (int c = first; c < first + kN; ++c) {
    for (int i = 0; i < n; ++i) RoundChannel(strips[i], lanes[i], c, first + kN);
  }
}

// Strips of one head, channel by channel: a channel waits for the one in front of it, but not for
// the other strips'.
void FeedBack(const FeedbackStrip* strips, int n) {
  StripLanes lanes[kMostStrips];
  for (int i = 0; i < n; ++i) lanes[i] = LanesOf(strips[i]);
  int c = 0;
  for (; c + kChannels <= strips[0].head_dim; c += kChannels) {
    RoundChannels<kChannels>(strips, lanes, n, c);
  }
  for (; c < strips[0].head_dim; ++c) RoundChannels<1>(strips, lanes, n, c);
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
