// Grids of the integer codecs, and blocks on the plain ones.
#include <algorithm>
#include <cmath>

#include "kvcodec/int_codec.h"
#include "tensor/half.h"

namespace phasor {

const IntLevels kLevels8 = {.bits = 8, .book_bits = 0, .level = {}};
const IntLevels kLevelsQ4_0 = {
    .bits = 4, .book_bits = 0, .level = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}};

// Fitted to Gaussian rows of 64 and 128 by scripts/fit_levels.py: codes, books and scales are
// chosen for the least squared error, then every level moves to the mean of what it stands for, and
// again (Lloyd 1982). Every book also serves mirrored, by a negative scale.
// clang-format off
const IntLevels kLevelsSearched4 = {
    .bits = 4,
    .book_bits = 1,
    .level = {-63, -48, -38, -30, -23, -17, -11, -6, 0, 5, 11, 17, 23, 31, 39, 50,
              -54, -40, -31, -24, -18, -13, -8, -3, 2, 7, 12, 18, 23, 30, 38, 49}};
const IntLevels kLevelsSearched3 = {
    .bits = 3,
    .book_bits = 2,
    .level = {-61, -40, -24, -11, 2, 15, 30, 51,
              -51, -30, -16, -5, 6, 18, 30, 47,
              -63, -39, -24, -12, -1, 10, 22, 39,
              -54, -29, -16, -6, 3, 13, 23, 38}};
// clang-format on

void QuantizeQ8_0(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float d = largest / 127.0f;
  const float inverse = d >= kSmallestWeight ? 1.0f / d : 0.0f;
  *scale = F32ToF16(d);
  for (int i = 0; i < n; ++i) {
    // std::round, halves away from zero, in steps that vectorise.
    const float a = std::fabs(x[i] * inverse);
    const int whole = static_cast<int>(a);
    const int up = a - static_cast<float>(whole) >= 0.5f ? whole + 1 : whole;
    codes[i] = static_cast<uint8_t>(x[i] < 0 ? -up : up);
  }
}

void QuantizeQ4_0(const float* x, int n, uint16_t* scale, uint8_t* codes) {
  float largest = 0, extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > largest) {
      largest = std::fabs(x[i]);
      extreme = x[i];
    }
  }
  const float d = extreme / -8.0f;
  const float inverse = std::fabs(d) >= kSmallestWeight ? 1.0f / d : 0.0f;
  *scale = F32ToF16(d);
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(std::min(15, static_cast<int>(x[i] * inverse + 8.5f)));
  }
}

}  // namespace phasor
