#include "kvcodec/row_codec.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "simd/line_fetcher.h"

namespace phasor {
namespace {

constexpr int kBytesPerStep = 2048;  // of rows, between requests for what comes next

class RowCodec : public RowKvCodec {
 public:
  RowCodec(RowType type, int head_dim)
      : type_(type),
        head_dim_(head_dim),
        row_bytes_(static_cast<std::size_t>(head_dim) * (type == RowType::kF32 ? 4 : 2)),
        rows_per_step_(std::clamp(kBytesPerStep / static_cast<int>(row_bytes_) / 4 * 4, 4, 16)) {}

  std::size_t PageBytes() const override { return row_bytes_ * kPageTokens; }

  void EncodePage(const float* x_TD, int n_tokens, std::byte* page) const override {
    EncodeRows(x_TD, 0, n_tokens, page);
    std::memset(page + row_bytes_ * n_tokens, 0, row_bytes_ * (kPageTokens - n_tokens));
  }

  void EncodeRows(const float* x_ND, int first, int n, std::byte* page) const override {
    PHASOR_DCHECK(first >= 0 && n >= 0 && first + n <= kPageTokens);
    Kernels().encode(x_ND, static_cast<std::size_t>(n) * head_dim_, page + row_bytes_ * first);
  }

  void DecodePage(const std::byte* page, int n_tokens, float* x_TD) const override {
    Kernels().decode(page, static_cast<std::size_t>(n_tokens) * head_dim_, x_TD);
  }

  std::size_t PreparedQueryBytes(int g) const override {
    return sizeof(float) * PaddedHeadDim(head_dim_) * g;
  }

  void PrepareQuery(const float* q_GD, int g, std::byte* prepared) const override {
    float* q_GP = reinterpret_cast<float*>(prepared);
    const int stride = PaddedHeadDim(head_dim_);
    for (int i = 0; i < g; ++i) {
      std::memcpy(q_GP + i * stride, q_GD + i * head_dim_, sizeof(float) * head_dim_);
      std::memset(q_GP + i * stride + head_dim_, 0, sizeof(float) * (stride - head_dim_));
    }
  }

  void ScorePage(const std::byte* prepared, int g, const std::byte* page, int n_tokens,
                 float* score_GT) const override {
    Kernels().score(reinterpret_cast<const float*>(prepared), g, page, head_dim_, n_tokens,
                    score_GT);
  }

  void AccumulatePage(const float* weight_GT, int g, const std::byte* page, int n_tokens,
                      float* out_GD) const override {
    Kernels().accumulate(weight_GT, g, page, head_dim_, n_tokens, out_GD);
  }

  // Rows stand for themselves, so a page can be taken in parts.
  void ScorePages(const std::byte* prepared, int g,
                  std::span<const PageToScore> pages) const override {
    for (const PageToScore& p : pages) {
      LineFetcher fetcher(p.next, kPageTokens / rows_per_step_);
      for (int t = 0; t < p.n_tokens; t += rows_per_step_) {
        fetcher.Step();
        Kernels().score(reinterpret_cast<const float*>(prepared), g, p.page + t * row_bytes_,
                        head_dim_, std::min(rows_per_step_, p.n_tokens - t), p.score_GT + t);
      }
    }
  }
  void AccumulatePages(int g, std::span<const PageToAccumulate> pages,
                       float* out_GD) const override {
    for (const PageToAccumulate& p : pages) {
      LineFetcher fetcher(p.next, kPageTokens / rows_per_step_);
      for (int t = 0; t < p.n_tokens; t += rows_per_step_) {
        fetcher.Step();
        Kernels().accumulate(p.weight_GT + t, g, p.page + t * row_bytes_, head_dim_,
                             std::min(rows_per_step_, p.n_tokens - t), out_GD);
      }
    }
  }

 private:
  // Looked up per call: a test may lower the CPU level after the codec was made.
  const RowKernels& Kernels() const { return GetRowKernels(type_, ActiveCpuLevel()); }

  const RowType type_;
  const int head_dim_;
  const std::size_t row_bytes_;
  const int rows_per_step_;  // a multiple of 4: kernels write whole vectors of 4 scores
};

}  // namespace

Status CheckHeadDim(const char* id, int head_dim) {
  if (head_dim >= 1 && head_dim <= kMaxHeadDim) return Status::Ok();
  return Unsupported(std::string(id) + ": expected a head size from 1 to " +
                     std::to_string(kMaxHeadDim) + ", found " + std::to_string(head_dim));
}

Result<std::unique_ptr<KvCodec>> MakeRowCodec(const char* id, RowType type,
                                              const KvCodecParams& params) {
  PHASOR_RETURN_IF_ERROR(CheckHeadDim(id, params.head_dim));
  return std::unique_ptr<KvCodec>(std::make_unique<RowCodec>(type, params.head_dim));
}

}  // namespace phasor
