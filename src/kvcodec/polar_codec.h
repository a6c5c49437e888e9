// The KvCodec over polar pages, shared by `polar` (a width per pair) and `polar<r><a>` (one width).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "contracts/kv_codec.h"
#include "kvcodec/polar_layout.h"

namespace phasor {

class PolarCodec : public KvCodec {
 public:
  // Checks the head size (1..kMaxPolarHeadDim), n_rot and the role (keys only). width_P: one width
  // per pair, ceil(D/2) of them in the order of PolarPairs.
  static Result<std::unique_ptr<KvCodec>> Make(const std::string& id, const KvCodecParams& params,
                                               const std::vector<PolarWidth>& width_P,
                                               CircleCut cut);

  std::size_t PageBytes() const override { return layout_.page_bytes; }
  void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const override;
  void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const override;
  std::size_t PreparedQueryBytes(int g) const override;
  void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const override;
  void ScorePages(const std::byte* prepared, int g,
                  std::span<const PageToScore> pages) const override;
  void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                 float* score_GT) const override;
  // Keys are never accumulated: a programmer error.
  void AccumulatePage(const float* weight_GT, int g, const std::byte* page, int n_tokens,
                      float* out_GD) const override;

  const PolarLayout& layout() const { return layout_; }
  // Turns pair j of every token of the page by phase16_P[j] / 65536 turns: what moving the page by
  // d positions is, with phase16_P[j] = d * omega_j. Only the grid changes, codes stay.
  void AddPhases(const uint16_t* phase16_P, std::byte* page) const;

 private:
  explicit PolarCodec(PolarLayout layout) : layout_(std::move(layout)) {}
  const PolarLayout layout_;
};

}  // namespace phasor
