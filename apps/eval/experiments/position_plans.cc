// What of Uni-Encoder (2106.01263), Group Position Encoding (2505.16983) and V2PE (2412.09616) can
// be measured on a model as it is.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "engine/rank_candidates.h"
#include "engine/two_streams.h"
#include "eval/experiments/experiment.h"
#include "model/dense_reference.h"
#include "registry/position_plan_table.h"

namespace phasor::eval {
namespace {

// --- Uni-Encoder: n candidates after one context ---

struct RankSizes {
  int64_t n_context, n_candidate;
  int n_candidates, n_rounds;
};
RankSizes RankSizesOf(bool quick) {
  return quick ? RankSizes{40, 6, 3, 1} : RankSizes{512, 24, 10, 3};
}

double LargestDifference(const Ranking& a, const Ranking& b, bool reversed) {
  double worst = 0;
  const std::size_t n = a.scores.size();
  for (std::size_t i = 0; i < n; ++i) {
    const CandidateScore& other = b.scores[reversed ? n - 1 - i : i];
    worst = std::max(worst, std::abs(a.scores[i].log_likelihood - other.log_likelihood));
  }
  return worst;
}

Result<ExperimentReport> RunUniEncoder(const ExperimentInput& input) {
  const RankSizes sizes = RankSizesOf(input.quick);
  const auto context = input.text.first(sizes.n_context);
  // The first is what follows in the text, the others stand further on.
  std::vector<std::vector<int32_t>> candidates;
  for (int64_t i = 0; i < sizes.n_candidates; ++i) {
    const auto part =
        input.text.subspan(sizes.n_context + i * 2 * sizes.n_candidate, sizes.n_candidate);
    candidates.emplace_back(part.begin(), part.end());
  }
  const std::vector<std::vector<int32_t>> backwards(candidates.rbegin(), candidates.rend());
  const RankOptions options{.cancel = input.cancel};
  std::vector<double> ratios;
  Ranking once, apart, reversed;
  for (int round = 0; round < sizes.n_rounds; ++round) {
    // In f32: sums of another order differ by 1e-6, and a 16-bit cache makes roundings of 2^-11 of
    // some of them.
    PHASOR_ASSIGN_OR_RETURN(auto session,
                            PlainSession(*input.model, sizes.n_context + sizes.n_candidate));
    PHASOR_ASSIGN_OR_RETURN(apart, RankSeparately(context, candidates, options, *session));
    PHASOR_ASSIGN_OR_RETURN(once, RankCandidates(context, candidates, options, session.get()));
    PHASOR_ASSIGN_OR_RETURN(reversed, RankCandidates({}, backwards, options, session.get()));
    ratios.push_back(apart.milliseconds / once.milliseconds);
  }
  std::sort(ratios.begin(), ratios.end());
  const double speed_up = ratios[ratios.size() / 2];
  const double formula = static_cast<double>(apart.n_read) / static_cast<double>(once.n_read);
  const double place = static_cast<double>(std::find(once.order.begin(), once.order.end(), 0) -
                                           once.order.begin() + 1);
  ExperimentReport report;
  report.measured = {{{"difference", "separate"}, LargestDifference(once, apart, false)},
                     {{"difference", "reversed"}, LargestDifference(once, reversed, true)},
                     {{"speed_up", "measured"}, speed_up},
                     {{"speed_up", "formula"}, formula},
                     {{"rank", "continuation"}, place}};
  report.tables.push_back(
      {fmt::format("{} candidates of {} tokens after {}; median of {} rounds", sizes.n_candidates,
                   sizes.n_candidate, sizes.n_context, sizes.n_rounds),
       {"passes", "tokens read", "ms (last round)", "speed-up"},
       {{"separate", std::to_string(apart.n_read), fmt::format("{:.0f}", apart.milliseconds), "1"},
        {"one", std::to_string(once.n_read), fmt::format("{:.0f}", once.milliseconds),
         fmt::format("{:.2f}", speed_up)},
        {"by tokens", "", "", fmt::format("{:.2f}", formula)}}});
  return report;
}

Result<ExperimentNeeds> UniEncoderNeeds(const ExperimentInput& input) {
  const RankSizes s = RankSizesOf(input.quick);
  return NeedsWithoutSettings(input, s.n_context + 2 * s.n_candidates * s.n_candidate);
}

// --- GPE: source and target as they arrive ---

struct StreamSizes {
  int64_t n_source, n_target;
};
StreamSizes StreamSizesOf(bool quick) { return quick ? StreamSizes{12, 8} : StreamSizes{64, 48}; }

struct StreamResult {
  std::vector<float> logits;  // of target tokens, [T, n_vocab]
  std::vector<int64_t> seen;  // source tokens there when each was read
  int64_t n_read = 0;
};

Result<StreamResult> ReadStreams(const ExperimentInput& input, const StreamSizes& sizes,
                                 const std::vector<StreamRole>& order, PositionTicks phi) {
  const auto source = input.text.first(sizes.n_source);
  const auto target = input.text.subspan(sizes.n_source, sizes.n_target);
  PHASOR_ASSIGN_OR_RETURN(auto session,
                          PlainSession(*input.model, sizes.n_source + sizes.n_target));
  PHASOR_ASSIGN_OR_RETURN(TwoStreams streams, TwoStreams::Create(session.get(), phi));
  StreamResult result;
  for (StreamRole role : order) {
    const bool is_source = role == StreamRole::kSource;
    AppendOptions append;
    append.cancel = input.cancel;
    const auto one =
        is_source ? source.subspan(streams.n_source(), 1) : target.subspan(streams.n_target(), 1);
    if (!is_source) result.seen.push_back(streams.n_source());
    PHASOR_RETURN_IF_ERROR(streams.Append(role, one, append));
    ++result.n_read;
    if (is_source) continue;
    const auto logits = session->logits();
    result.logits.insert(result.logits.end(), logits.begin(), logits.end());
  }
  return result;
}

Result<std::vector<float>> DenseStreams(const ExperimentInput& input, const StreamSizes& sizes,
                                        const std::vector<int64_t>& seen, PositionTicks phi) {
  const std::vector<PlanSpan> spans = {{.n_tokens = sizes.n_source},
                                       {.n_tokens = sizes.n_target, .role = StreamRole::kTarget}};
  PHASOR_ASSIGN_OR_RETURN(const std::vector<PositionTicks> positions,
                          PlanPositions({.id = "gpe", .target_start = phi}, spans));
  const int64_t S = sizes.n_source;
  const auto sees = [&](int64_t q, int64_t k) {
    return k < q && (q < S || k >= S || k < seen[q - S]);
  };
  std::vector<float> all = DenseReferenceLogits(
      input.model->transformer(), {input.text.first(S + sizes.n_target), positions, sees},
      input.model->pool());
  all.erase(all.begin(), all.begin() + S * input.model->config().n_vocab);
  return all;
}

// Mean negative log-likelihood of target tokens but the first, in nats.
double MeanNll(const ExperimentInput& input, const StreamSizes& sizes,
               const std::vector<float>& logits) {
  const auto vocab = static_cast<std::size_t>(input.model->config().n_vocab);
  double sum = 0;
  for (int64_t t = 0; t + 1 < sizes.n_target; ++t) {
    const auto row = std::span(logits).subspan(static_cast<std::size_t>(t) * vocab, vocab);
    const double top = *std::max_element(row.begin(), row.end());
    double z = 0;
    for (float x : row) z += std::exp(x - top);
    sum += top + std::log(z) - row[input.text[sizes.n_source + t + 1]];
  }
  return sum / static_cast<double>(sizes.n_target - 1);
}

std::vector<StreamRole> RandomOrder(const StreamSizes& sizes, uint64_t seed) {
  std::vector<StreamRole> order(sizes.n_source, StreamRole::kSource);
  order.insert(order.end(), sizes.n_target, StreamRole::kTarget);
  Rng rng(seed);
  for (std::size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[rng.Below(i + 1)]);
  return order;
}

Result<ExperimentReport> RunGpe(const ExperimentInput& input) {
  const StreamSizes sizes = StreamSizesOf(input.quick);
  const std::pair<const char*, std::vector<StreamRole>> orders[] = {
      {"wait-1", WaitKOrder(sizes.n_source, sizes.n_target, 1)},
      {"wait-7", WaitKOrder(sizes.n_source, sizes.n_target, 7)},
      {"random", RandomOrder(sizes, 1)},
      {"batch", WaitKOrder(sizes.n_source, sizes.n_target, sizes.n_source)}};
  ExperimentReport report;
  ResultTable table{"A text as source, its continuation as target, on a model not tuned for it",
                    {"order", "start of target", "nll of target", "difference from mask"},
                    {}};
  auto& worst = report.measured[{"difference", "streaming"}];
  auto& read = report.measured[{"tokens_read", "streaming"}];
  for (const auto& [name, order] : orders) {
    for (const int64_t start : {int64_t{0}, int64_t{256}, sizes.n_source}) {
      PHASOR_RETURN_IF_ERROR(CheckCancelled(input));
      const PositionTicks phi = start * kTicksPerPosition;
      PHASOR_ASSIGN_OR_RETURN(const StreamResult got, ReadStreams(input, sizes, order, phi));
      PHASOR_ASSIGN_OR_RETURN(const auto want, DenseStreams(input, sizes, got.seen, phi));
      const double difference = RelativeDifference(got.logits, want);
      worst = std::max(worst, difference);
      read = std::max(read, static_cast<double>(got.n_read));
      table.table.AddRow({name, std::to_string(start),
                          fmt::format("{:.4f}", MeanNll(input, sizes, got.logits)),
                          fmt::format("{:.1e}", difference)});
    }
  }
  report.measured[{"tokens_read", "text"}] = static_cast<double>(sizes.n_source + sizes.n_target);
  report.tables.push_back(std::move(table));
  return report;
}

Result<ExperimentNeeds> GpeNeeds(const ExperimentInput& input) {
  const StreamSizes s = StreamSizesOf(input.quick);
  return NeedsWithoutSettings(input, s.n_source + s.n_target);
}

// --- V2PE: steps below one, up to a million ---

Result<ExperimentNeeds> V2peNeeds(const ExperimentInput& input) {
  return NeedsWithoutSettings(input, 0);
}

Result<ExperimentReport> RunV2pe(const ExperimentInput& input) {
  ExperimentReport report;
  ResultTable table{"512 image tokens 1/256 apart behind text of so many tokens",
                    {"text tokens", "steps lost in fp32", "steps lost in 1/65536"},
                    {}};
  auto& lost_ticks = report.measured[{"steps_lost", "ticks"}];
  auto& lost_float = report.measured[{"steps_lost", "fp32"}];
  for (const int64_t n_text : {1000, 32768, 65536, 1000000}) {
    const std::vector<PlanSpan> spans = {{.n_tokens = n_text},
                                         {.n_tokens = 512, .kind = SpanKind::kImage}};
    PHASOR_ASSIGN_OR_RETURN(const auto positions,
                            PlanPositions({.id = "v2pe", .stride = 1}, spans));
    int ticks = 0, floats = 0;
    for (auto t = static_cast<std::size_t>(n_text); t < positions.size(); ++t) {
      const PositionTicks a = positions[t - 1], b = positions[t];
      ticks += (b - a) * 256 != kTicksPerPosition;
      // fp32 as in the released code: the sum of an integer and a multiple of 1/256.
      const auto as_float = [](PositionTicks p) {
        return static_cast<float>(static_cast<double>(p) / kTicksPerPosition);
      };
      floats += static_cast<double>(as_float(b)) - as_float(a) != 1.0 / 256;
    }
    table.table.AddRow({std::to_string(n_text), std::to_string(floats), std::to_string(ticks)});
    lost_ticks += ticks;
    lost_float += floats;
  }
  report.tables.push_back(std::move(table));
  // Positions taken: text tokens plus images rounded up.
  Rng rng(1);
  double wrong = 0;
  for (int round = 0; round < 200; ++round) {
    const int stride = 1 << rng.Below(9);
    PHASOR_ASSIGN_OR_RETURN(auto plan, MakePositionPlan({.id = "v2pe", .stride = stride}));
    std::vector<PositionTicks> positions;
    int64_t expected = 0;
    for (int64_t i = 0; i < 20; ++i) {
      PlanSpan span{.n_tokens = static_cast<int64_t>(1 + rng.Below(1500)), .image = i};
      if (rng.Below(2) == 0) span.kind = SpanKind::kImage;
      expected +=
          span.kind == SpanKind::kImage ? (span.n_tokens * stride + 255) / 256 : span.n_tokens;
      PHASOR_RETURN_IF_ERROR(plan->Extend(span, &positions));
    }
    wrong += plan->next_position() != expected * kTicksPerPosition;
    wrong += !std::is_sorted(positions.begin(), positions.end());
  }
  report.measured[{"wrong_extents", "random"}] = wrong;
  return report;
}

}  // namespace

const Experiment kUniEncoderExperiment = {"uniencoder", UniEncoderNeeds, RunUniEncoder};
const Experiment kGpeExperiment = {"gpe", GpeNeeds, RunGpe};
const Experiment kV2peExperiment = {"v2pe", V2peNeeds, RunV2pe};

}  // namespace phasor::eval
