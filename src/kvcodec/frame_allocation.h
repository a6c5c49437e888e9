// Which width each channel of `frame4` and `frame3` gets: the bits where the queries look.
//
// The squared error of a score is about sum_d E[q_d^2] err_d with err_d the squared error of
// channel d in the turning frame. Widths are chosen to make it least under a budget, for quads of
// four channels (frame.h) that would get similar widths by themselves. Errors are measured by
// really encoding calibration keys with every width.
#pragma once

#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

#include "contracts/kv_codec.h"
#include "kvcodec/frame.h"

namespace phasor {

// Mean squared error of a stored element, in the frame, for every width 0 .. kMaxFrameBits.
struct ChannelErrorTable {
  int n_channels = 0;
  std::vector<double> error_DW;  // [n_channels][kMaxFrameBits + 1]
};

// Encodes k_TD [n_tokens, D], keys after RoPE, in groups of 128 tokens (the last one may be
// shorter) with each width. Leave out the first tokens, which the cache keeps in 16 bits and which
// do not look like the rest. params: head_dim, n_rot, pairing, omega_P. n_tokens >= 1.
ChannelErrorTable MeasureChannelErrors(const float* k_TD, int64_t n_tokens,
                                       const KvCodecParams& params);

// One KV head's part of an allocation.
struct ChannelHead {
  const ChannelErrorTable* errors;
  // Mean square of the queries per channel; the two channels of a turning pair share their mean.
  std::span<const double> weight_D;
  // What one unit of the head's squared score error costs, beside that of other heads.
  double importance = 1;
};

// The squared score error of a head whose channels have these widths, without its importance.
double ScoreError(const ChannelHead& head, std::span<const uint8_t> width_D);

// Width per channel of every head under one common budget, grids included (4.25 means 4 bits per
// channel). kInvalidArgument for a budget below the grids' own bits or above the widest width, and
// when sizes do not match or a number is negative or not finite.
Result<std::vector<std::vector<uint8_t>>> AllocateChannelWidths(std::span<const ChannelHead> heads,
                                                                double bits_per_element);

// Widths that a head of values can have (int_codec.h), and what each of them costs, in the unit of
// ChannelHead::importance times score error.
inline constexpr int kValueWidths[] = {3, 4, 8};
struct ValueHead {
  double cost[std::size(kValueWidths)];
};

struct KeyAndValueWidths {
  std::vector<std::vector<uint8_t>> key_HD;  // kFrameF16Width for all channels of a head, or 0 .. 7
  std::vector<uint8_t> value_H;
};
// Keys and values under one budget, of the codes alone: 4 means 4 bits per element of both. Heads
// of keys get f16, whose error counts as none, one after the other by what they cost otherwise, as
// long as that lowers the cost of all. kInvalidArgument as above, and where not even the narrowest
// values fit.
Result<KeyAndValueWidths> AllocateKeysAndValues(std::span<const ChannelHead> keys,
                                                std::span<const ValueHead> values,
                                                double code_bits);

}  // namespace phasor
