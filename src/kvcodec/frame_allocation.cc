#include "kvcodec/frame_allocation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/aligned.h"
#include "base/check.h"
#include "kvcodec/frame_kernels.h"
#include "kvcodec/width_price.h"

namespace phasor {
namespace {

constexpr int kWidths = kMaxFrameBits + 1;
// Channels are put in order of need by the error they would have at this width.
constexpr int kSortWidth = 4;

Status CheckHead(const ChannelHead& head) {
  const std::size_t n = static_cast<std::size_t>(head.errors->n_channels);
  if (n == 0 || head.errors->error_DW.size() != n * kWidths || head.weight_D.size() != n) {
    return InvalidArgument("channel widths: expected errors and weights for " + std::to_string(n) +
                           " channels, found " +
                           std::to_string(head.errors->error_DW.size() / kWidths) + " and " +
                           std::to_string(head.weight_D.size()));
  }
  auto bad = [](double x) { return !std::isfinite(x) || x < 0; };
  if (bad(head.importance) ||
      std::any_of(head.errors->error_DW.begin(), head.errors->error_DW.end(), bad) ||
      std::any_of(head.weight_D.begin(), head.weight_D.end(), bad)) {
    return InvalidArgument(
        "channel widths: expected finite errors and weights of at least 0, found others");
  }
  return Status::Ok();
}

// Channels of one head by falling need.
std::vector<int> ByNeed(const ChannelHead& head) {
  std::vector<int> order(head.weight_D.size());
  std::iota(order.begin(), order.end(), 0);
  auto need = [&](int d) {
    return head.weight_D[d] *
           head.errors->error_DW[static_cast<std::size_t>(d) * kWidths + kSortWidth];
  };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return need(a) > need(b); });
  return order;
}

// The quads of all heads, and which channels they are made of.
struct QuadOptions {
  std::vector<std::vector<WidthOption>> options;  // [quads of all heads]
  std::vector<std::vector<int>> orders;           // by head: channels by falling need
};

Result<QuadOptions> MakeQuadOptions(std::span<const ChannelHead> heads) {
  QuadOptions out;
  for (const ChannelHead& head : heads) {
    PHASOR_RETURN_IF_ERROR(CheckHead(head));
    out.orders.push_back(ByNeed(head));
    const std::vector<int>& order = out.orders.back();
    for (std::size_t first = 0; first < order.size(); first += 4) {
      std::vector<WidthOption> quad;
      for (int bits = 0; bits < kWidths; ++bits) {
        double cost = 0;
        for (std::size_t i = first; i < std::min(first + 4, order.size()); ++i) {
          const std::size_t d = static_cast<std::size_t>(order[i]);
          cost += head.importance * head.weight_D[d] * head.errors->error_DW[d * kWidths + bits];
        }
        // Wider ones that do not help are left out.
        if (quad.empty() || cost < quad.back().cost) {
          quad.push_back({bits, cost, static_cast<uint8_t>(bits)});
        }
      }
      out.options.push_back(std::move(quad));
    }
  }
  return out;
}

Result<double> CodeBits(double bits) {
  if (bits >= 0 && bits <= kMaxFrameBits) return bits;
  return InvalidArgument("channel widths: expected a budget of " + std::to_string(kFrameGridBits) +
                         " to " + std::to_string(kFrameGridBits + kMaxFrameBits) + " bits, found " +
                         std::to_string(bits + kFrameGridBits));
}

// The widths of quads as widths of channels.
std::vector<std::vector<uint8_t>> Spread(const QuadOptions& quads,
                                         std::span<const uint8_t> width_of_quad) {
  std::vector<std::vector<uint8_t>> width_HD;
  std::size_t quad = 0;
  for (const std::vector<int>& order : quads.orders) {
    std::vector<uint8_t> width_D(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) width_D[order[i]] = width_of_quad[quad + i / 4];
    quad += (order.size() + 3) / 4;
    width_HD.push_back(std::move(width_D));
  }
  return width_HD;
}

// Bits of a row of f16; the grids that it does without are not counted.
constexpr int kF16Units = 16;

Result<std::vector<WidthOption>> ValueOptions(const ValueHead& head, int quads_per_head) {
  std::vector<WidthOption> widths;
  for (std::size_t w = 0; w < std::size(kValueWidths); ++w) {
    if (!std::isfinite(head.cost[w]) || head.cost[w] < 0) {
      return InvalidArgument("channel widths: expected finite costs of at least 0, found others");
    }
    if (widths.empty() || head.cost[w] < widths.back().cost) {
      widths.push_back(
          {kValueWidths[w] * quads_per_head, head.cost[w], static_cast<uint8_t>(kValueWidths[w])});
    }
  }
  return widths;
}

// The widths of quads and then of values, what each of them costs, and all together.
struct SharedChoice {
  std::vector<uint8_t> width;
  std::vector<double> cost;
  double total = 0;
};

SharedChoice Choose(const std::vector<std::vector<WidthOption>>& options, int64_t budget) {
  SharedChoice choice;
  choice.width = AllocateByPrice(options, budget);
  for (std::size_t i = 0; i < options.size(); ++i) {
    const auto at = std::find_if(options[i].begin(), options[i].end(), [&](const WidthOption& o) {
      return o.width_class == choice.width[i];
    });
    choice.cost.push_back(at->cost);
    choice.total += at->cost;
  }
  return choice;
}

int64_t LeastUnits(const std::vector<std::vector<WidthOption>>& options) {
  int64_t sum = 0;
  for (const auto& item : options) sum += item[0].units;
  return sum;
}

}  // namespace

ChannelErrorTable MeasureChannelErrors(const float* k_TD, int64_t n_tokens,
                                       const KvCodecParams& params) {
  PHASOR_CHECK(n_tokens >= 1);
  const int D = params.head_dim;
  ChannelErrorTable table;
  table.n_channels = D;
  table.error_DW.assign(static_cast<std::size_t>(D) * kWidths, 0.0);
  const std::size_t size = static_cast<std::size_t>(D) * kPageTokens;
  AlignedBuffer<float> exact(size), stored(size);
  for (int bits = 0; bits < kWidths; ++bits) {
    const std::vector<uint8_t> width_D(static_cast<std::size_t>(D), static_cast<uint8_t>(bits));
    const FrameLayout layout = MakeFrameLayout(params, width_D);
    AlignedBuffer<std::byte> page(layout.page_bytes);
    for (int64_t first = 0; first < n_tokens; first += kPageTokens) {
      const int n = static_cast<int>(std::min<int64_t>(n_tokens - first, kPageTokens));
      ToFrame(layout, k_TD + first * D, n, exact.data());
      ActiveFrameKernels().encode(layout, k_TD + first * D, n, page.data());
      DecodeFrame(layout, page.data(), stored.data());
      for (int d = 0; d < D; ++d) {
        double sum = 0;
        for (int t = 0; t < n; ++t) {
          const std::size_t at = static_cast<std::size_t>(d) * kPageTokens + t;
          const double error = static_cast<double>(stored[at]) - exact[at];
          sum += error * error;
        }
        table.error_DW[static_cast<std::size_t>(d) * kWidths + bits] +=
            sum / static_cast<double>(n_tokens);
      }
    }
  }
  return table;
}

double ScoreError(const ChannelHead& head, std::span<const uint8_t> width_D) {
  double sum = 0;
  for (std::size_t d = 0; d < width_D.size(); ++d) {
    sum += head.weight_D[d] * head.errors->error_DW[d * kWidths + width_D[d]];
  }
  return sum;
}

Result<std::vector<std::vector<uint8_t>>> AllocateChannelWidths(std::span<const ChannelHead> heads,
                                                                double bits_per_element) {
  PHASOR_ASSIGN_OR_RETURN(const QuadOptions quads, MakeQuadOptions(heads));
  PHASOR_ASSIGN_OR_RETURN(const double per_quad, CodeBits(bits_per_element - kFrameGridBits));
  const auto budget =
      static_cast<int64_t>(std::floor(per_quad * static_cast<double>(quads.options.size()) + 1e-6));
  return Spread(quads, AllocateByPrice(quads.options, budget));
}

Result<KeyAndValueWidths> AllocateKeysAndValues(std::span<const ChannelHead> keys,
                                                std::span<const ValueHead> values,
                                                double code_bits) {
  PHASOR_ASSIGN_OR_RETURN(const QuadOptions quads, MakeQuadOptions(keys));
  PHASOR_ASSIGN_OR_RETURN(const double per_quad, CodeBits(code_bits));
  if (keys.empty() || keys.size() != values.size()) {
    return InvalidArgument("channel widths: expected values of " + std::to_string(keys.size()) +
                           " heads, found " + std::to_string(values.size()));
  }
  const auto n_quads = static_cast<int64_t>(quads.options.size());
  const auto quads_per_head = static_cast<int>(n_quads / static_cast<int64_t>(keys.size()));
  const auto budget =
      static_cast<int64_t>(std::floor(2 * per_quad * static_cast<double>(n_quads) + 1e-6));
  if (budget < kValueWidths[0] * n_quads) {
    return InvalidArgument("channel widths: expected a budget for values of at least " +
                           std::to_string(kValueWidths[0]) + " bits, found " +
                           std::to_string(2 * code_bits) + " for keys and values");
  }
  std::vector<std::vector<WidthOption>> options = quads.options;
  for (const ValueHead& head : values) {
    PHASOR_ASSIGN_OR_RETURN(std::vector<WidthOption> widths, ValueOptions(head, quads_per_head));
    options.push_back(std::move(widths));
  }
  SharedChoice best = Choose(options, budget);
  std::vector<bool> tried(keys.size(), false);
  for (;;) {
    // The head of keys that costs most as it is.
    std::size_t worst = keys.size();
    double most = 0;
    for (std::size_t h = 0; h < keys.size(); ++h) {
      double cost = 0;
      for (int q = 0; q < quads_per_head; ++q) cost += best.cost[h * quads_per_head + q];
      if (!tried[h] && cost > most) worst = h, most = cost;
    }
    if (worst == keys.size()) break;
    tried[worst] = true;
    std::vector<std::vector<WidthOption>> with = options;
    std::fill_n(with.begin() + static_cast<std::ptrdiff_t>(worst) * quads_per_head, quads_per_head,
                std::vector<WidthOption>{{kF16Units, 0.0, kFrameF16Width}});
    if (LeastUnits(with) > budget) break;
    SharedChoice choice = Choose(with, budget);
    if (choice.total >= best.total) break;
    best = std::move(choice);
    options = std::move(with);
  }
  KeyAndValueWidths out;
  out.key_HD = Spread(quads, best.width);
  out.value_H.assign(best.width.begin() + n_quads, best.width.end());
  return out;
}

}  // namespace phasor
