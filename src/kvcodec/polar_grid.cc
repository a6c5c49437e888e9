#include "kvcodec/polar_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "tensor/half.h"

namespace phasor {
namespace {

// Largest f16 <= x and smallest f16 >= x, for 0 <= x.
uint16_t F16Down(float x) {
  uint16_t h = F32ToF16(std::min(x, kPolarInfinity));
  return F16ToF32(h) > x ? static_cast<uint16_t>(h - 1) : h;
}
uint16_t F16Up(float x) {
  uint16_t h = F32ToF16(std::min(x, kPolarInfinity));
  return F16ToF32(h) < x && h < 0x7bff ? static_cast<uint16_t>(h + 1) : h;
}

}  // namespace

std::vector<PairDims> PolarPairs(int head_dim, int n_rot, RopePairing pairing) {
  PHASOR_CHECK(head_dim >= 1 && n_rot >= 0 && n_rot % 2 == 0 && n_rot <= head_dim);
  std::vector<PairDims> pairs;
  const int rotated = n_rot / 2;
  for (int j = 0; j < rotated; ++j) {
    bool interleaved = pairing == RopePairing::kInterleaved;
    int x = interleaved ? 2 * j : j;
    int y = interleaved ? 2 * j + 1 : j + rotated;
    pairs.push_back({static_cast<int16_t>(x), static_cast<int16_t>(y)});
  }
  const int tail = head_dim - n_rot, half = (tail + 1) / 2;
  for (int j = 0; j < half; ++j) {
    int x = n_rot + j, y = x + half;
    pairs.push_back({static_cast<int16_t>(x), static_cast<int16_t>(y < head_dim ? y : -1)});
  }
  return pairs;
}

float SanitizeElement(float x) {
  if (!(x == x)) return 0.0f;
  return std::clamp(x, -kPolarInfinity, kPolarInfinity);
}

float Atan2Turns(float y, float x) {
  const float ax = std::fabs(x), ay = std::fabs(y);
  const float big = std::max(ax, ay), small = std::min(ax, ay);
  if (!(big > 0.0f)) return 0.0f;
  const float z = small / big, z2 = z * z;
  float p = kAtanTurns[6];
  for (int i = 5; i >= 0; --i) p = p * z2 + kAtanTurns[i];
  p *= z;
  if (ay > ax) p = 0.25f - p;
  if (x < 0.0f) p = 0.5f - p;
  if (y < 0.0f) p = 1.0f - p;
  return p < 1.0f ? p : 0.0f;
}

void SinCosTurns(float turns, float* sine, float* cosine) {
  const float quarter = std::nearbyint(turns * 4.0f);
  const float x = turns - quarter * 0.25f, x2 = x * x;
  float s = kSinTurns[3], c = kCosTurns[4];
  for (int i = 2; i >= 0; --i) s = s * x2 + kSinTurns[i];
  for (int i = 3; i >= 0; --i) c = c * x2 + kCosTurns[i];
  s *= x;
  const int q = static_cast<int>(quarter);
  if (q & 1) std::swap(s, c);
  *sine = (q & 2) ? -s : s;
  *cosine = ((q + 1) & 2) ? -c : c;
}

void ToPolar(const float* x_T, const float* y_T, int n, int32_t* phase_T, float* r_T) {
  int32_t first_phase = 0;
  bool have_phase = false;
  for (int t = 0; t < n; ++t) {
    const float x = SanitizeElement(x_T[t]), y = SanitizeElement(y_T[t]);
    r_T[t] = std::sqrt(x * x + y * y);
    phase_T[t] = static_cast<int32_t>(std::nearbyint(Atan2Turns(y, x) * 0x1p24f)) & kPhaseMask;
    if (!have_phase && r_T[t] > 0.0f) {
      first_phase = phase_T[t];
      have_phase = true;
    }
  }
  for (int t = 0; t < n; ++t) {
    if (!(r_T[t] > 0.0f)) phase_T[t] = first_phase;
  }
}

int32_t CutBehindLargestGap(const uint64_t bins[4]) {
  // Only bins behind an empty one can be the start of the arc. Each is met with the end of the
  // stretch before it; the longest empty way between the two wins, the first one on a tie.
  int first = -1, last_end = -1, best_length = -1, best_start = 0;
  for (int word = 0; word < 4; ++word) {
    const uint64_t before = bins[word] << 1 | bins[(word + 3) % 4] >> 63;
    const uint64_t after = bins[word] >> 1 | bins[(word + 1) % 4] << 63;
    uint64_t starts = bins[word] & ~before, ends = bins[word] & ~after;
    for (uint64_t left = starts | ends; left != 0; left &= left - 1) {
      const uint64_t bit = left & -left;
      const int bin = 64 * word + std::countr_zero(left);
      if (starts & bit) {
        if (first < 0) first = bin;
        if (last_end >= 0 && bin - last_end > best_length) {
          best_length = bin - last_end;
          best_start = bin;
        }
      }
      if (ends & bit) last_end = bin;
    }
  }
  if (first < 0) return 0;  // nothing, or a full circle
  const bool over_zero = (bins[0] & 1) != 0 && bins[3] >> 63 != 0;
  if (!over_zero && first + 256 - last_end > best_length) best_start = first;
  return best_start << (kPhaseBits - 8);
}

PolarGrid MakeGrid(int32_t low, int32_t arc, float r_low, float r_high, PolarWidth width) {
  constexpr int kDrop = kPhaseBits - 16;
  PolarGrid grid;
  grid.phi_min = static_cast<uint16_t>((low & kPhaseMask) >> kDrop);
  // What rounding phi_min down left in front of the arc belongs to the range as well.
  const int32_t span = arc + (low & ((1 << kDrop) - 1));
  grid.phi_range =
      static_cast<uint16_t>(std::min((span + (1 << kDrop) - 1) >> kDrop, int32_t{0xffff}));
  grid.r_min = F16Down(r_low);
  const float rest = r_high - F16ToF32(grid.r_min);
  grid.r_step = rest > 0.0f ? F16Up(rest / static_cast<float>(1 << width.r_bits)) : uint16_t{0};
  return grid;
}

PolarGrid FitGrid(const int32_t* phase_T, const float* r_T, int n, PolarWidth width,
                  CircleCut cut) {
  PHASOR_CHECK(n >= 1);
  int32_t origin = 0;
  if (cut == CircleCut::kLargestGap) {
    uint64_t bins[4] = {0, 0, 0, 0};
    for (int t = 0; t < n; ++t) {
      const int bin = phase_T[t] >> (kPhaseBits - 8);
      bins[bin / 64] |= uint64_t{1} << (bin % 64);
    }
    origin = CutBehindLargestGap(bins);
  }
  int32_t low = kPhaseMask, high = 0;
  float r_low = r_T[0], r_high = r_T[0];
  for (int t = 0; t < n; ++t) {
    const int32_t d = (phase_T[t] - origin) & kPhaseMask;
    low = std::min(low, d);
    high = std::max(high, d);
    r_low = std::min(r_low, r_T[t]);
    r_high = std::max(r_high, r_T[t]);
  }
  return MakeGrid(origin + low, high - low, r_low, r_high, width);
}

uint16_t PolarCode(const PolarGrid& grid, PolarWidth width, int32_t phase, float r) {
  uint32_t theta = 0, rho = 0;
  if (grid.phi_range != 0) {
    const int32_t d = (phase - (int32_t{grid.phi_min} << (kPhaseBits - 16))) & kPhaseMask;
    const float cells_per_unit =
        static_cast<float>(1 << width.a_bits) / (static_cast<float>(grid.phi_range) * 256.0f);
    theta = std::min(static_cast<uint32_t>(static_cast<float>(d) * cells_per_unit),
                     (1u << width.a_bits) - 1);
  }
  const float r_step = F16ToF32(grid.r_step);
  if (r_step > 0.0f) {
    const float cell = std::max((r - F16ToF32(grid.r_min)) * (1.0f / r_step), 0.0f);
    rho = static_cast<uint32_t>(std::min(cell, static_cast<float>((1 << width.r_bits) - 1)));
  }
  return static_cast<uint16_t>((rho << width.a_bits) | theta);
}

void PolarCellCenter(const PolarGrid& grid, PolarWidth width, uint16_t code, double* turns,
                     double* r) {
  const int theta = code & ((1 << width.a_bits) - 1), rho = code >> width.a_bits;
  *turns = grid.phi_min / 65536.0 +
           (theta + 0.5) * grid.phi_range / 65536.0 / static_cast<double>(1 << width.a_bits);
  *r = F16ToF32(grid.r_min) + (rho + 0.5) * static_cast<double>(F16ToF32(grid.r_step));
}

}  // namespace phasor
