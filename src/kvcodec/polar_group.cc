// polar<r><a> and polar<r><a>_cut0: PolarQuant with one width for all pairs.
//
// What it does: the group-wise (128 tokens) form with r radius bits and a angle bits per RoPE pair,
//   asymmetric grids for both. `polar44` cuts the circle at its largest gap, `polar44_cut0` is the
//   published form, which cuts it at angle 0.
// Source: PolarQuant, NeurIPS 2025, arXiv 2502.00527 v2, section 4 and the authors' code.
// Deviations: f32 arithmetic; grids stored as u16 turns and f16 instead of four 16-bit floats (same
//   64 bits); r + a bits per pair really packed (the authors' code uses one byte for any width up
//   to 8 bits); zero ranges give code 0 instead of 0/0.
// Shapes, exactness, limits: as polar.cc. Keys only.
// Cost: (r + a) / 2 + 0.25 bits per element.
#include <algorithm>

#include "kvcodec/kvcodec.h"
#include "kvcodec/polar_codec.h"

namespace phasor {
namespace {

constexpr int kMaxGroupRadiusBits = 6, kMaxGroupAngleBits = 7;

// Reads "polar<r><a>" or "polar<r><a>_cut0".
Result<std::unique_ptr<KvCodec>> MakePolarGroup(const char* id, const KvCodecParams& params) {
  const std::string name = id;
  const std::string kPrefix = "polar", kCut0 = "_cut0";
  const int r_bits = name.size() >= 7 ? name[5] - '0' : -1;
  const int a_bits = name.size() >= 7 ? name[6] - '0' : -1;
  const std::string rest = name.size() >= 7 ? name.substr(7) : "";
  const bool valid = name.compare(0, 5, kPrefix) == 0 && r_bits >= 1 &&
                     r_bits <= kMaxGroupRadiusBits && a_bits >= 2 && a_bits <= kMaxGroupAngleBits &&
                     r_bits + a_bits <= kMaxPolarTotalBits && (rest.empty() || rest == kCut0);
  if (!valid) {
    return InvalidArgument(
        "polar: expected polar<r><a> or polar<r><a>_cut0 with r 1..6, a 2..7, found '" + name +
        "'");
  }
  const PolarWidth width = {static_cast<uint8_t>(r_bits), static_cast<uint8_t>(a_bits)};
  const std::vector<PolarWidth> width_P(
      static_cast<std::size_t>(std::max(params.head_dim, 0) + 1) / 2, width);
  return PolarCodec::Make(name, params, width_P,
                          rest.empty() ? CircleCut::kLargestGap : CircleCut::kAtZero);
}

constexpr KvCodecInfo GroupInfo(const char* id, const char* summary, double bits) {
  return {id,
          summary,
          "PolarQuant (arXiv 2502.00527)",
          /*for_keys=*/true,
          /*for_values=*/false,
          /*exact=*/false,
          /*uses_calibration=*/false,
          bits,
          bits,
          MakePolarGroup};
}

}  // namespace

const KvCodecInfo kPolar33KvCodec = GroupInfo("polar33", "3 radius + 3 angle bits", 3.25);
const KvCodecInfo kPolar34KvCodec = GroupInfo("polar34", "3 radius + 4 angle bits", 3.75);
const KvCodecInfo kPolar35KvCodec = GroupInfo("polar35", "3 radius + 5 angle bits", 4.25);
const KvCodecInfo kPolar44KvCodec = GroupInfo("polar44", "4 radius + 4 angle bits", 4.25);
const KvCodecInfo kPolar45KvCodec = GroupInfo("polar45", "4 radius + 5 angle bits", 4.75);
const KvCodecInfo kPolar55KvCodec = GroupInfo("polar55", "5 radius + 5 angle bits", 5.25);
const KvCodecInfo kPolar44Cut0KvCodec =
    GroupInfo("polar44_cut0", "as published: 4 + 4 bits, circle cut at angle 0", 4.25);
const KvCodecInfo kPolar33Cut0KvCodec =
    GroupInfo("polar33_cut0", "as published: 3 + 3 bits, circle cut at angle 0", 3.25);

}  // namespace phasor
