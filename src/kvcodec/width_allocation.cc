#include "kvcodec/width_allocation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/aligned.h"
#include "base/check.h"
#include "kvcodec/polar_codec.h"
#include "kvcodec/width_price.h"

namespace phasor {
namespace {

constexpr int kUnit = 2;  // all classes have an even number of bits

// Options of a pair by increasing width; wider ones that do not help are left out.
std::vector<WidthOption> PairOptions(const WidthHead& head, int pair) {
  std::vector<WidthOption> options;
  for (int total = 4; total <= kMaxPolarTotalBits; total += kUnit) {
    WidthOption best = {total / kUnit, std::numeric_limits<double>::infinity(), 0};
    for (int c = 0; c < kNumPolarClasses; ++c) {
      if (kPolarClasses[c].total() != total) continue;
      const double cost = head.weight_P[static_cast<std::size_t>(pair)] * head.errors->at(pair, c);
      if (cost < best.cost) {
        best.cost = cost;
        best.width_class = static_cast<uint8_t>(c);
      }
    }
    if (options.empty() || best.cost < options.back().cost) options.push_back(best);
  }
  return options;
}

Status CheckHead(const WidthHead& head) {
  const PairErrorTable& errors = *head.errors;
  const std::size_t n_pairs = static_cast<std::size_t>(errors.n_pairs);
  if (errors.error_PC.size() != n_pairs * kNumPolarClasses || head.weight_P.size() != n_pairs) {
    return InvalidArgument("width allocation: expected errors and weights for " +
                           std::to_string(n_pairs) + " pairs, found " +
                           std::to_string(errors.error_PC.size() / kNumPolarClasses) + " and " +
                           std::to_string(head.weight_P.size()));
  }
  auto bad = [](double x) { return !std::isfinite(x) || x < 0; };
  if (std::any_of(errors.error_PC.begin(), errors.error_PC.end(), bad) ||
      std::any_of(head.weight_P.begin(), head.weight_P.end(), bad)) {
    return InvalidArgument(
        "width allocation: expected finite errors and weights of at least 0, found others");
  }
  return Status::Ok();
}

// The budget in units for n_pairs pairs.
Result<int64_t> Budget(int64_t n_pairs, double bits_per_element) {
  const double per_pair = 2 * (bits_per_element - kPolarGridBits) / kUnit;
  const int narrowest = 4 / kUnit;
  // 1e-9: 4.25 bits must mean 4.25 in spite of rounding.
  if (!(per_pair >= narrowest - 1e-9)) {
    return InvalidArgument("width allocation: expected a budget of at least 2.25 bits, found " +
                           std::to_string(bits_per_element));
  }
  const double most = static_cast<double>(kMaxPolarTotalBits) / kUnit;
  const double units = std::floor(std::min(per_pair, most) * static_cast<double>(n_pairs) + 1e-6);
  return static_cast<int64_t>(units);
}

// Exact, by dynamic programming over (pairs done, units spent).
std::vector<uint8_t> SolveExactly(const std::vector<std::vector<WidthOption>>& options,
                                  int64_t budget) {
  const std::size_t n = options.size(), width = static_cast<std::size_t>(budget) + 1;
  const double kImpossible = std::numeric_limits<double>::infinity();
  std::vector<double> cost(width, kImpossible), next(width);
  std::vector<uint8_t> choice(n * width);
  cost[0] = 0;
  for (std::size_t j = 0; j < n; ++j) {
    std::fill(next.begin(), next.end(), kImpossible);
    for (std::size_t o = 0; o < options[j].size(); ++o) {
      const std::size_t units = static_cast<std::size_t>(options[j][o].units);
      for (std::size_t b = units; b < width; ++b) {
        const double total = cost[b - units] + options[j][o].cost;
        if (total < next[b]) {
          next[b] = total;
          choice[j * width + b] = static_cast<uint8_t>(o);
        }
      }
    }
    cost.swap(next);
  }
  std::size_t b =
      static_cast<std::size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin());
  std::vector<uint8_t> classes(n);
  for (std::size_t j = n; j-- > 0;) {
    const WidthOption& option = options[j][choice[j * width + b]];
    classes[j] = option.width_class;
    b -= static_cast<std::size_t>(option.units);
  }
  return classes;
}

}  // namespace

PairErrorTable MeasurePairErrors(const float* k_TD, int64_t n_tokens, const KvCodecParams& params) {
  PHASOR_CHECK(n_tokens >= 1);
  const int D = params.head_dim;
  const std::vector<PairDims> pairs = PolarPairs(D, params.n_rot, params.pairing);
  PairErrorTable table;
  table.n_pairs = static_cast<int>(pairs.size());
  table.n_tokens = n_tokens;
  table.error_PC.assign(pairs.size() * kNumPolarClasses, 0.0);
  std::vector<float> decoded(static_cast<std::size_t>(kPageTokens) * static_cast<std::size_t>(D));
  for (int c = 0; c < kNumPolarClasses; ++c) {
    auto made = PolarCodec::Make("width allocation", params,
                                 std::vector<PolarWidth>(pairs.size(), kPolarClasses[c]),
                                 CircleCut::kLargestGap);
    PHASOR_CHECK(made.ok());
    const KvCodec& codec = **made;
    AlignedBuffer<std::byte> page(codec.PageBytes());
    for (int64_t first = 0; first < n_tokens; first += kPageTokens) {
      const int n = static_cast<int>(std::min<int64_t>(n_tokens - first, kPageTokens));
      const float* keys = k_TD + first * D;
      codec.EncodePage(keys, n, page.data());
      codec.DecodePage(page.data(), n, decoded.data());
      for (std::size_t j = 0; j < pairs.size(); ++j) {
        double sum = 0;
        for (int t = 0; t < n; ++t) {
          const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(t) * D;
          auto add = [&](int d) {
            const double error = SanitizeElement(keys[row + d]) - decoded[row + d];
            sum += error * error;
          };
          add(pairs[j].x);
          if (pairs[j].y >= 0) add(pairs[j].y);
        }
        table.error_PC[j * kNumPolarClasses + static_cast<std::size_t>(c)] +=
            sum / static_cast<double>(n_tokens);
      }
    }
  }
  return table;
}

void MergePairErrors(const PairErrorTable& more, PairErrorTable* table) {
  if (table->n_tokens == 0) {
    *table = more;
    return;
  }
  PHASOR_CHECK(table->error_PC.size() == more.error_PC.size());
  const double share =
      static_cast<double>(more.n_tokens) / static_cast<double>(more.n_tokens + table->n_tokens);
  for (std::size_t i = 0; i < more.error_PC.size(); ++i) {
    table->error_PC[i] += share * (more.error_PC[i] - table->error_PC[i]);
  }
  table->n_tokens += more.n_tokens;
}

Result<std::vector<uint8_t>> AllocateWidths(const WidthHead& head, double bits_per_element) {
  PHASOR_RETURN_IF_ERROR(CheckHead(head));
  PHASOR_ASSIGN_OR_RETURN(const int64_t budget, Budget(head.errors->n_pairs, bits_per_element));
  std::vector<std::vector<WidthOption>> options;
  for (int j = 0; j < head.errors->n_pairs; ++j) options.push_back(PairOptions(head, j));
  return SolveExactly(options, budget);
}

Result<std::vector<std::vector<uint8_t>>> AllocateWidthsJointly(std::span<const WidthHead> heads,
                                                                double bits_per_element) {
  std::vector<std::vector<WidthOption>> options;
  for (const WidthHead& head : heads) {
    PHASOR_RETURN_IF_ERROR(CheckHead(head));
    for (int j = 0; j < head.errors->n_pairs; ++j) options.push_back(PairOptions(head, j));
  }
  PHASOR_ASSIGN_OR_RETURN(const int64_t budget,
                          Budget(static_cast<int64_t>(options.size()), bits_per_element));
  const std::vector<uint8_t> all = AllocateByPrice(options, budget);
  std::vector<std::vector<uint8_t>> classes;
  auto at = all.begin();
  for (const WidthHead& head : heads) {
    classes.emplace_back(at, at + head.errors->n_pairs);
    at += head.errors->n_pairs;
  }
  return classes;
}

double WeightedError(const WidthHead& head, std::span<const uint8_t> class_P) {
  double sum = 0;
  for (std::size_t j = 0; j < class_P.size(); ++j) {
    sum += head.weight_P[j] * head.errors->at(static_cast<int>(j), class_P[j]);
  }
  return sum;
}

double WidthBitsPerElement(std::span<const uint8_t> class_P) {
  double bits = 0;
  for (uint8_t c : class_P) bits += kPolarClasses[c].total();
  return class_P.empty() ? 0.0
                         : bits / (2.0 * static_cast<double>(class_P.size())) + kPolarGridBits;
}

}  // namespace phasor
