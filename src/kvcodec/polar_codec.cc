#include "kvcodec/polar_codec.h"

#include "base/check.h"
#include "kvcodec/polar_kernels.h"

namespace phasor {

Result<std::unique_ptr<KvCodec>> PolarCodec::Make(const std::string& id,
                                                  const KvCodecParams& params,
                                                  const std::vector<PolarWidth>& width_P,
                                                  CircleCut cut) {
  if (params.role != KvRole::kKey) {
    return Unsupported(id + ": expected keys, found values, which have no rotated pairs");
  }
  if (params.head_dim < 1 || params.head_dim > kMaxPolarHeadDim) {
    return Unsupported(id + ": expected a head size of 1 to " + std::to_string(kMaxPolarHeadDim) +
                       ", found " + std::to_string(params.head_dim));
  }
  if (params.n_rot < 0 || params.n_rot % 2 != 0 || params.n_rot > params.head_dim) {
    return InvalidArgument(id + ": expected an even number of rotated dimensions up to " +
                           std::to_string(params.head_dim) + ", found " +
                           std::to_string(params.n_rot));
  }
  const std::vector<PairDims> pairs = PolarPairs(params.head_dim, params.n_rot, params.pairing);
  if (pairs.size() != width_P.size()) {
    return InvalidArgument(id + ": expected widths for " + std::to_string(pairs.size()) +
                           " pairs, found " + std::to_string(width_P.size()));
  }
  return std::unique_ptr<KvCodec>(
      new PolarCodec(MakePolarLayout(params.head_dim, pairs, width_P, cut)));
}

void PolarCodec::EncodePage(const float* x_TD, int n_tokens, std::byte* page) const {
  PHASOR_CHECK(n_tokens >= 1 && n_tokens <= kPageTokens);
  ActivePolarKernels().encode(layout_, x_TD, n_tokens, page);
}

void PolarCodec::DecodePage(const std::byte* page, int n_tokens, float* x_TD) const {
  ActivePolarKernels().decode(layout_, page, n_tokens, x_TD);
}

std::size_t PolarCodec::PreparedQueryBytes(int g) const {
  return PreparedPolarFloats(layout_, g) * sizeof(float);
}

void PolarCodec::PrepareQuery(const float* q_GD, int g, std::byte* prepared) const {
  ActivePolarKernels().prepare(layout_, q_GD, g, reinterpret_cast<float*>(prepared));
}

void PolarCodec::ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                           float* score_GT) const {
  const PageToScore one = {page, n_tokens, score_GT};
  ScorePages(prepared, g, {&one, 1});
}

void PolarCodec::ScorePages(const std::byte* prepared, int g,
                            std::span<const PageToScore> pages) const {
  for (const PageToScore& p : pages) {
    ActivePolarKernels().score(layout_, reinterpret_cast<const float*>(prepared), g, p.page,
                               p.n_tokens, p.score_GT, p.next);
  }
}

void PolarCodec::AccumulatePage(const float* /*weight_GT*/, int /*g*/, const std::byte* /*page*/,
                                int /*n_tokens*/, float* /*out_GD*/) const {
  PHASOR_CHECK(!"a polar codec holds keys only");
}

void PolarCodec::AddPhases(const uint16_t* phase16_P, std::byte* page) const {
  for (int s = 0; s < layout_.n_slots; ++s) {
    PolarGrid grid = LoadPolarGrid(layout_, page, s);
    grid.phi_min = static_cast<uint16_t>(grid.phi_min + phase16_P[layout_.slots[s].pair]);
    StorePolarGrid(layout_, s, grid, page);
  }
}

}  // namespace phasor
