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

// Squared error of n numbers with step size `d`, for the grid -half .. half-1 (error[0]) and its
// mirror image (error[1]). Sixteen partial sums, added in a fixed order: the same bits everywhere.
PHASOR_NO_CONTRACT inline void GridError(const float* x, int n, float half, float d, float* error) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float inverse = 1.0f / d;
  V16 sum_plus = {}, sum_minus = {};
  for (int i = 0; i < n; i += 16) {
    V16 v;
    __builtin_memcpy(&v, x + i, sizeof(v));
    V16 r = v * inverse;
    // Beyond the grid the clamps below decide; this bound only keeps the rounding trick valid.
    r = r > half + 1.0f ? half + 1.0f + 0.0f * r : r;
    r = r < -half - 1.0f ? -half - 1.0f + 0.0f * r : r;
    r = r + kRound;
    r = r - kRound;
    const V16 low = r < -half ? 0.0f * r - half : r;
    const V16 high = r > half ? 0.0f * r + half : r;
    const V16 plus = low > half - 1.0f ? 0.0f * r + (half - 1.0f) : low;
    const V16 minus = high < 1.0f - half ? 0.0f * r + (1.0f - half) : high;
    V16 e = plus * d;
    e = v - e;
    e = e * e;
    sum_plus = sum_plus + e;
    e = minus * d;
    e = v - e;
    e = e * e;
    sum_minus = sum_minus + e;
  }
  float plus[16], minus[16];
  __builtin_memcpy(plus, &sum_plus, sizeof(plus));
  __builtin_memcpy(minus, &sum_minus, sizeof(minus));
  for (int w = 8; w >= 1; w /= 2) {
    for (int i = 0; i < w; ++i) {
      plus[i] += plus[i + w];
      minus[i] += minus[i + w];
    }
  }
  error[0] = plus[0];
  error[1] = minus[0];
}

PHASOR_NO_CONTRACT inline float SearchScale(const ScaleSearch& search, const float* x, int n) {
  float largest = 0;
  for (int i = 0; i < n; ++i) {
    const float a = x[i] < 0 ? -x[i] : x[i];
    largest = a > largest ? a : largest;
  }
  float best = 0, best_error = 3.0e38f;
  for (int i = 0; i < 8; ++i) {
    const float offset = search.step * static_cast<float>(i);
    const float factor = search.first + offset;
    const float d = RoundToF16(largest * factor / static_cast<float>(search.half));
    if (d == 0) continue;
    float error[2];
    GridError(x, n, static_cast<float>(search.half), d, error);
    for (int sign = 0; sign < 2; ++sign) {
      if (!(error[sign] < best_error)) continue;
      best_error = error[sign];
      best = sign == 0 ? d : -d;
    }
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
