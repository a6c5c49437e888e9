// The loops around the tile products, compiled once per CPU level inside its target region.
// No include guard: each kernel file includes it once, in its own anonymous namespace.
//
// Isa supplies: DotTiles-based ScoreLanes<BITS, G, NB> and AccumulateLanes<BITS, G, NB>,
// QuantizeWeights, and kMaxLaneBlocks (how many blocks of 16 lanes fit its registers with G = 4).

// Sixteen floats; the compilers map them to what the target has, with equal results.
typedef float V16 __attribute__((vector_size(64), aligned(4)));

#if defined(__GNUC__) && !defined(__clang__)
#define PHASOR_NO_CONTRACT __attribute__((optimize("fp-contract=off")))
#else
#define PHASOR_NO_CONTRACT
#endif

// Squared errors of n numbers with step size `d`, for the grid -half .. half-1 (plus) and its
// mirror image (minus), as sixteen partial sums each. |x| <= 100 * d.
PHASOR_NO_CONTRACT inline void GridErrors(const float* x, int n, float half, float d, V16* plus,
                                          V16* minus) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float inverse = 1.0f / d;
  const V16 zero = {};
  const V16 low = zero - half, high = zero + half;
  const V16 low_inside = zero + (1.0f - half), high_inside = zero + (half - 1.0f);
  V16 sum_plus = {}, sum_minus = {};
  for (int i = 0; i < n; i += 16) {
    V16 v;
    __builtin_memcpy(&v, x + i, sizeof(v));
    V16 r = v * inverse;
    r = r + kRound;
    r = r - kRound;
    V16 a = r < low ? low : r;
    a = a > high_inside ? high_inside : a;
    V16 b = r > high ? high : r;
    b = b < low_inside ? low_inside : b;
    a = a * d;
    a = v - a;
    a = a * a;
    sum_plus = sum_plus + a;
    b = b * d;
    b = v - b;
    b = b * b;
    sum_minus = sum_minus + b;
  }
  *plus = sum_plus;
  *minus = sum_minus;
}

// Sums of sixteen vectors: the result's element i is the sum over v[i]. Pairs of vectors are folded
// into one, four times; the order of additions is the same everywhere.
inline void SumEach(V16* v) {
  for (int i = 0; i < 8; ++i) {
    v[i] = __builtin_shufflevector(v[i], v[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21,
                                   22, 23) +
           __builtin_shufflevector(v[i], v[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28,
                                   29, 30, 31);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(v[i], v[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25,
                                   26, 27) +
           __builtin_shufflevector(v[i], v[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28,
                                   29, 30, 31);
  }
  for (int i = 0; i < 2; ++i) {
    v[i] = __builtin_shufflevector(v[i], v[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13,
                                   28, 29) +
           __builtin_shufflevector(v[i], v[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14,
                                   15, 30, 31);
  }
  v[0] = __builtin_shufflevector(v[0], v[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14,
                                 30) +
         __builtin_shufflevector(v[0], v[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15,
                                 31);
}

PHASOR_NO_CONTRACT inline float SearchScale(const ScaleSearch& search, const float* x, int n) {
  V16 top = {};
  for (int i = 0; i < n; i += 16) {
    V16 v;
    __builtin_memcpy(&v, x + i, sizeof(v));
    top = v > top ? v : top;
    v = -v;
    top = v > top ? v : top;
  }
  float largest = 0;
  for (int i = 0; i < 16; ++i) largest = top[i] > largest ? top[i] : largest;
  float scale[16];  // plus and minus of one magnitude side by side
  V16 error[16];
  for (int i = 0; i < 8; ++i) {
    const float offset = search.step * static_cast<float>(i);
    const float factor = search.first + offset;
    const float d = RoundToF16(largest * factor / static_cast<float>(search.half));
    scale[2 * i] = d;
    scale[2 * i + 1] = -d;
    if (d == 0) return 0;  // smaller than f16 can tell from zero
    GridErrors(x, n, static_cast<float>(search.half), d, &error[2 * i], &error[2 * i + 1]);
  }
  SumEach(error);
  float best = 0, best_error = 3.0e38f;
  for (int i = 0; i < 16; ++i) {
    const float e = error[0][i];
    if (!(e < best_error)) continue;
    best_error = e;
    best = scale[i];
  }
  return best;
}

template <class Isa, int BITS, int G>
inline void ScoreHeads(const IntScoreArgs& a, int head) {
  const int n_blocks16 = (a.n_tokens + 15) / 16;
  int lane = 0;
  for (; lane + Isa::kMaxLaneBlocks <= n_blocks16; lane += Isa::kMaxLaneBlocks) {
    Isa::template ScoreLanes<BITS, G, Isa::kMaxLaneBlocks>(a, head, lane);
  }
  for (; lane < n_blocks16; ++lane) Isa::template ScoreLanes<BITS, G, 1>(a, head, lane);
}

template <class Isa, int BITS>
inline void ScoreBits(const IntScoreArgs& a) {
  int head = 0;
  for (; head + 4 <= a.g; head += 4) ScoreHeads<Isa, BITS, 4>(a, head);
  if (a.g - head == 3) ScoreHeads<Isa, BITS, 3>(a, head);
  if (a.g - head == 2) ScoreHeads<Isa, BITS, 2>(a, head);
  if (a.g - head == 1) ScoreHeads<Isa, BITS, 1>(a, head);
}

template <class Isa>
void Score(const IntScoreArgs& a) {
  if (a.shape->bits == 3) ScoreBits<Isa, 3>(a);
  if (a.shape->bits == 4) ScoreBits<Isa, 4>(a);
  if (a.shape->bits == 8) ScoreBits<Isa, 8>(a);
}

// The rounded weights of up to four heads for one block of channels.
struct BlockWeights {
  alignas(64) int16_t w[4][kPageTokens];
  float step[4];    // weight * scale = step * w
  int32_t bias[4];  // offset * sum of w
  uint64_t groups;  // bit i: some weight of tile row i is not zero
};

template <class Isa, int BITS, int G>
inline void AccumulateHeads(const IntAccumulateArgs& a, int head) {
  const IntPageShape& shape = *a.shape;
  const auto* scales = reinterpret_cast<const uint16_t*>(a.page);
  const int n_lane_blocks = shape.n_lanes / 16;
  BlockWeights weights;
  for (int b = 0; b < shape.n_blocks; ++b) {
    uint32_t octets = 0;
    for (int i = 0; i < G; ++i) {
      int32_t sum = 0;
      octets |=
          Isa::QuantizeWeights(a.weight_GT + (head + i) * kPageTokens, scales + b * kPageTokens,
                               a.n_tokens, weights.w[i], &weights.step[i], &sum);
      weights.bias[i] = sum * shape.offset;
    }
    if (octets == 0) continue;
    weights.groups = octets;
    if (BITS == 3) {  // tiles of 16 tokens
      weights.groups = 0;
      for (int i = 0; i < 8; ++i) {
        if ((octets >> (2 * i) & 3) != 0) weights.groups |= 1u << i;
      }
    }
    int lane = b * shape.block / 16;
    const int end = b + 1 == shape.n_blocks ? n_lane_blocks : (b + 1) * shape.block / 16;
    for (; lane + Isa::kMaxLaneBlocks <= end; lane += Isa::kMaxLaneBlocks) {
      Isa::template AccumulateLanes<BITS, G, Isa::kMaxLaneBlocks>(a, weights, head, lane);
    }
    for (; lane + 2 <= end && Isa::kMaxLaneBlocks > 2; lane += 2) {
      Isa::template AccumulateLanes<BITS, G, 2>(a, weights, head, lane);
    }
    for (; lane < end; ++lane) Isa::template AccumulateLanes<BITS, G, 1>(a, weights, head, lane);
  }
}

template <class Isa, int BITS>
inline void AccumulateBits(const IntAccumulateArgs& a) {
  int head = 0;
  for (; head + 4 <= a.g; head += 4) AccumulateHeads<Isa, BITS, 4>(a, head);
  if (a.g - head == 3) AccumulateHeads<Isa, BITS, 3>(a, head);
  if (a.g - head == 2) AccumulateHeads<Isa, BITS, 2>(a, head);
  if (a.g - head == 1) AccumulateHeads<Isa, BITS, 1>(a, head);
}

template <class Isa>
void Accumulate(const IntAccumulateArgs& a) {
  if (a.shape->bits == 3) AccumulateBits<Isa, 3>(a);
  if (a.shape->bits == 4) AccumulateBits<Isa, 4>(a);
  if (a.shape->bits == 8) AccumulateBits<Isa, 8>(a);
}
