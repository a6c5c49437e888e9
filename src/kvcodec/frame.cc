// frame4, frame3: integers per channel in a turning frame, with the bits where the queries look.
//
// What it does: over the 128 tokens of a page every channel is rounded to 2^b levels. b is chosen
//   per channel, once per model, so that the expected error of the scores is least under a budget
//   (frame_allocation.h); pairs are turned back twice a page, so that keys that only turn with RoPE
//   look the same all over the page (frame.h).
//   Channels are rounded one after the other, narrowest first, and make up for each other's errors
//   where queries have moments in common (frame_feedback.h).
// Source: integers per channel from KIVI (Liu et al., 2024, arXiv 2402.02750); the turning frame,
//   widths by query weight and the integer scoring are phasor's own (docs/log.md, docs/kernels.md);
//   error feedback as in GPTQ (Frantar et al., 2023, arXiv 2210.17323), there for weights.
// Deviations: groups are pages; the range of a channel may shrink where that lowers the squared
//   error, so its outermost values may be clipped.
// Shapes and layout: frame.h. Keys only.
// Exactness: approximate. NaN counts as 0, an element beyond +-65504 as +-65504. Scores round the
//   query to 8 bits per page, or to 12 where 8 would add more than a twelfth of the squared error
//   that the codes have already: one strong channel takes the whole scale when widths are not
//   calibrated.
// Cost: widths + 0.25 bits per element.
// Limits: head size up to 1024. Without calibration all channels get 4 (frame4) or 3 bits and are
//   rounded by themselves. A head that the calibration gives 16 bits holds rows of f16.
#include "kvcodec/frame.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "base/check.h"
#include "kvcodec/frame_feedback.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/kvcodec.h"
#include "kvcodec/polar_grid.h"  // PolarPairs

namespace phasor {

FrameLayout MakeFrameLayout(const KvCodecParams& params, std::span<const uint8_t> width_D) {
  const int D = params.head_dim;
  PHASOR_CHECK(static_cast<int>(width_D.size()) == D);
  FrameLayout l;
  l.head_dim = D;
  l.n_quads = (D + 3) / 4;
  l.n_padded = (D + 63) / 64 * 64;
  l.channel_S.resize(static_cast<std::size_t>(D));
  std::iota(l.channel_S.begin(), l.channel_S.end(), int16_t{0});
  std::stable_sort(l.channel_S.begin(), l.channel_S.end(),
                   [&](int16_t a, int16_t b) { return width_D[a] > width_D[b]; });
  l.channel_S.resize(static_cast<std::size_t>(l.n_quads) * 4, -1);
  l.first_code = static_cast<uint32_t>((16 * l.n_quads + 63) / 64 * 64);
  l.page_bytes = l.first_code;
  for (int q = 0; q < l.n_quads; ++q) {
    const uint8_t bits = width_D[l.channel_S[4 * q]];  // the widest of the four
    PHASOR_CHECK(bits <= kMaxFrameBits);
    l.bits_Q.push_back(bits);
    ++l.quads_of_bits[bits];
    l.page_bytes += static_cast<std::size_t>(bits) * 64;
  }
  const int n_pairs = params.omega_P.empty() ? 0 : params.n_rot / 2;
  PHASOR_CHECK(static_cast<int>(params.omega_P.size()) == n_pairs);
  std::vector<int16_t> partner_D(static_cast<std::size_t>(D));
  std::iota(partner_D.begin(), partner_D.end(), int16_t{0});
  std::vector<int> pair_D(static_cast<std::size_t>(D), -1);
  const std::vector<PairDims> dims = PolarPairs(D, params.n_rot, params.pairing);
  for (int j = 0; j < n_pairs; ++j) {
    l.pairs.push_back({dims[j].x, dims[j].y});
    partner_D[dims[j].x] = dims[j].y;
    partner_D[dims[j].y] = dims[j].x;
    pair_D[dims[j].x] = pair_D[dims[j].y] = j;
  }
  for (int i = 0; i < kFrames; ++i) {
    for (int j = 0; j < n_pairs; ++j) {
      const double angle = static_cast<double>(params.omega_P[j]) * kFrameTokens * i;
      l.cos_IP.push_back(static_cast<float>(std::cos(angle)));
      l.sin_IP.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  const std::size_t padded = static_cast<std::size_t>(l.n_padded);
  l.cos_IS.assign(kFrames * padded, 0.0f);
  l.sin_IS.assign(kFrames * padded, 0.0f);
  l.middle_S.assign(padded, 0.0f);
  l.middle_bytes_S.assign(padded, 0);
  for (int s = 0; s < 4 * l.n_quads; ++s) {
    const int channel = l.channel_S[s];
    const uint8_t bits = l.bits_Q[s / 4];
    const int middle = bits == 0 ? 0 : 1 << (bits - 1);
    l.middle_S[s] = static_cast<float>(middle);
    l.middle_bytes_S[s / 64 * 64 + 4 * FrameDword(s / 4) + s % 4] = static_cast<uint8_t>(middle);
    l.partner_S.push_back(channel < 0 ? int16_t{-1} : partner_D[channel]);
    if (channel < 0) continue;
    // Codes of Gaussian numbers: about 4.5 deviations to either end of the range together.
    const float spread = bits == 0 ? 0.0f : static_cast<float>(1 << bits) / 4.5f;
    l.code_power += spread * spread;
    for (int w = bits + 1; w <= kMaxFrameBits + 1; ++w) l.power_below[w] += spread * spread;
    const int j = pair_D[channel];
    for (int i = 0; i < kFrames; ++i) {
      const std::size_t at = static_cast<std::size_t>(i) * padded + s;
      l.cos_IS[at] = j < 0 ? 1.0f : l.cos_IP[i * n_pairs + j];
      const float sine = j < 0 ? 0.0f : l.sin_IP[i * n_pairs + j];
      l.sin_IS[at] = j >= 0 && channel == l.pairs[j].y ? -sine : sine;
    }
  }
  for (int w = 0; w <= kMaxFrameBits; ++w) {
    l.middle_from[w] = l.middle_bytes_S;
    for (int q = 0; q < l.n_quads; ++q) {
      if (l.bits_Q[q] < w)
        std::fill_n(&l.middle_from[w][q / 16 * 64 + 4 * FrameDword(q)], 4, uint8_t{0});
    }
  }
  AddFrameFeedback(params.query_moments_DD, &l);
  return l;
}

std::size_t FrameQueryBytes(const FrameLayout& layout, int g) {
  const std::size_t n = static_cast<std::size_t>(layout.n_padded),
                    heads = static_cast<std::size_t>(g);
  return heads * n * (sizeof(float) + kFrames * (sizeof(float) + sizeof(int16_t)));
}

FrameQuery ViewFrameQuery(const FrameLayout& layout, int g, std::byte* prepared) {
  const std::size_t n = static_cast<std::size_t>(layout.n_padded),
                    heads = static_cast<std::size_t>(g);
  FrameQuery query;
  query.turned = reinterpret_cast<float*>(prepared);
  query.largest = query.turned + heads * n * kFrames;
  query.normalized = reinterpret_cast<int16_t*>(query.largest + heads * n);
  return query;
}

namespace {

class FrameCodec : public KvCodec {
 public:
  explicit FrameCodec(FrameLayout layout) : layout_(std::move(layout)) {}

  std::size_t PageBytes() const override { return layout_.page_bytes; }
  void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const override {
    PHASOR_CHECK(n_tokens >= 1 && n_tokens <= kPageTokens);
    ActiveFrameKernels().encode(layout_, x_TD, n_tokens, page);
  }
  void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const override {
    ActiveFrameKernels().decode(layout_, page, n_tokens, x_TD);
  }
  std::size_t PreparedQueryBytes(int g) const override { return FrameQueryBytes(layout_, g); }
  void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const override {
    ActiveFrameKernels().prepare(layout_, q_GD, g, ViewFrameQuery(layout_, g, prepared));
  }
  void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                 float* score_GT) const override {
    const PageToScore one = {page, n_tokens, score_GT};
    ScorePages(prepared, g, {&one, 1});
  }
  void ScorePages(const std::byte* prepared, int g,
                  std::span<const PageToScore> pages) const override {
    const FrameQuery query = ViewFrameQuery(layout_, g, const_cast<std::byte*>(prepared));
    ActiveFrameKernels().score(layout_, query, g, pages);
  }
  // Keys are never accumulated: a programmer error.
  void AccumulatePage(const float* /*weight_GT*/, int /*g*/, const std::byte* /*page*/,
                      int /*n_tokens*/, float* /*out_GD*/) const override {
    PHASOR_CHECK(!"a frame codec holds keys only");
  }

 private:
  const FrameLayout layout_;
};

}  // namespace

std::unique_ptr<KvCodec> MakeFrameCodec(FrameLayout layout) {
  return std::make_unique<FrameCodec>(std::move(layout));
}

namespace {

template <uint8_t kUniformBits>
Result<std::unique_ptr<KvCodec>> MakeFrame(const char* id, const KvCodecParams& params) {
  const std::string name = id;
  if (params.role != KvRole::kKey) {
    return Unsupported(name + ": expected keys, found values, which do not turn");
  }
  if (params.head_dim < 1 || params.head_dim > kMaxFrameHeadDim) {
    return Unsupported(name + ": expected a head size of 1 to " + std::to_string(kMaxFrameHeadDim) +
                       ", found " + std::to_string(params.head_dim));
  }
  if (params.n_rot < 0 || params.n_rot % 2 != 0 || params.n_rot > params.head_dim) {
    return InvalidArgument(name + ": expected an even number of rotated dimensions up to " +
                           std::to_string(params.head_dim) + ", found " +
                           std::to_string(params.n_rot));
  }
  if (!params.omega_P.empty() && static_cast<int>(params.omega_P.size()) != params.n_rot / 2) {
    return InvalidArgument(name + ": expected frequencies for " + std::to_string(params.n_rot / 2) +
                           " pairs, found " + std::to_string(params.omega_P.size()));
  }
  const auto n_moments = static_cast<std::size_t>(params.head_dim) * params.head_dim;
  if (!params.query_moments_DD.empty() && params.query_moments_DD.size() != n_moments) {
    return InvalidArgument(name + ": expected " + std::to_string(n_moments) +
                           " second moments of queries, found " +
                           std::to_string(params.query_moments_DD.size()));
  }
  std::vector<uint8_t> width_D(static_cast<std::size_t>(params.head_dim), kUniformBits);
  if (!params.classes.empty()) {
    if (params.classes.size() != width_D.size()) {
      return InvalidArgument(name + ": expected widths for " + std::to_string(width_D.size()) +
                             " channels, found " + std::to_string(params.classes.size()));
    }
    width_D.assign(params.classes.begin(), params.classes.end());
    if (std::all_of(width_D.begin(), width_D.end(),
                    [](uint8_t w) { return w == kFrameF16Width; })) {
      return kF16KvCodec.make("f16", params);
    }
    for (std::size_t d = 0; d < width_D.size(); ++d) {
      if (width_D[d] > kMaxFrameBits) {
        return InvalidArgument(name + ": expected widths up to " + std::to_string(kMaxFrameBits) +
                               " bits, found " + std::to_string(width_D[d]) + " for channel " +
                               std::to_string(d));
      }
    }
  }
  return MakeFrameCodec(MakeFrameLayout(params, width_D));
}

}  // namespace

const KvCodecInfo kFrame4KvCodec = {
    "frame4",
    "4 bits per channel on average, in a frame that turns with RoPE, widths by query weight",
    "phasor, after KIVI (arXiv 2402.02750)",
    /*for_keys=*/true,
    /*for_values=*/false,
    /*exact=*/false,
    /*uses_calibration=*/true,
    /*nominal_bits_64=*/4.25,
    /*nominal_bits_128=*/4.25,
    MakeFrame<4>,
    /*layout=*/2,
};

const KvCodecInfo kFrame3KvCodec = {
    "frame3",
    "3 bits per channel on average, in a frame that turns with RoPE, widths by query weight",
    "phasor, after KIVI (arXiv 2402.02750)",
    /*for_keys=*/true,
    /*for_values=*/false,
    /*exact=*/false,
    /*uses_calibration=*/true,
    /*nominal_bits_64=*/3.25,
    /*nominal_bits_128=*/3.25,
    MakeFrame<3>,
    /*layout=*/2,
};

}  // namespace phasor
