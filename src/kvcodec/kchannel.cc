// int4_channel, int3_channel: integers per channel, KIVI's form for keys.
//
// What it does: over the 128 tokens of a page each channel is rounded to 2^b levels between its
//   least and its largest value. Keys have strong channels, which formats per token must pay for in
//   every block; per channel they cost nothing.
// Source: KIVI (Liu et al., 2024, arXiv 2402.02750), key cache; group of 128 instead of 32.
// Deviations: groups are pages; scale and low end are rounded outwards to f16 and codes computed
//   from the stored ones, so nothing is clipped.
// Shapes and layout: a frame page (frame.h) whose pairs do not turn, all channels of one width.
//   Keys only: values of KIVI are rounded per token, which is what q4_0 does.
// Exactness: approximate; per element at most half a step, (max - min) / (2^b - 1) / 2, plus the
//   outward rounding (tested). NaN counts as 0, an element beyond +-65504 as +-65504. Scores round
//   the query to 8 or 12 bits per page, as frame.cc says.
// Cost: b + 0.25 bits per element. Scores fold the scales into the query once per page:
//   q.k = sum_d q_d low_d + sum_d (q_d scale_d) code_d.
// Limits: head size up to 1024.
// Tried and rejected: a layout and kernels of its own in float, slower than f16 rows with AVX2
//   (docs/log.md).
#include <string>
#include <utility>
#include <vector>

#include "kvcodec/frame.h"
#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

template <uint8_t kBits>
Result<std::unique_ptr<KvCodec>> MakeChannel(const char* id, const KvCodecParams& params) {
  if (params.role != KvRole::kKey) {
    return Unsupported(std::string(id) +
                       ": expected keys, found values, which have no strong channels");
  }
  if (params.head_dim < 1 || params.head_dim > kMaxFrameHeadDim) {
    return Unsupported(std::string(id) + ": expected a head size of 1 to " +
                       std::to_string(kMaxFrameHeadDim) + ", found " +
                       std::to_string(params.head_dim));
  }
  KvCodecParams still = params;
  still.omega_P = {};
  still.query_moments_DD = {};  // every channel by itself, half a step at most
  FrameLayout layout = MakeFrameLayout(
      still, std::vector<uint8_t>(static_cast<std::size_t>(params.head_dim), kBits));
  layout.whole_ranges = true;
  return MakeFrameCodec(std::move(layout));
}

}  // namespace

const KvCodecInfo kInt4ChannelKvCodec = {
    "int4_channel",
    "4-bit integers per channel, groups of 128 tokens",
    "KIVI (arXiv 2402.02750)",
    /*for_keys=*/true,
    /*for_values=*/false,
    /*exact=*/false,
    /*uses_calibration=*/false,
    4.25,
    4.25,
    MakeChannel<4>,
    /*layout=*/2,
};

const KvCodecInfo kInt3ChannelKvCodec = {
    "int3_channel",
    "3-bit integers per channel, groups of 128 tokens",
    "KIVI (arXiv 2402.02750)",
    /*for_keys=*/true,
    /*for_values=*/false,
    /*exact=*/false,
    /*uses_calibration=*/false,
    3.25,
    3.25,
    MakeChannel<3>,
    /*layout=*/2,
};

}  // namespace phasor
