// What of AnchorAttention (2411.13476) can be measured without training: the drift of RoPE in few
// bits, the first key's share in it, and what documents that do not see each other save.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "attention/attention.h"
#include "base/rng.h"
#include "engine/packed_documents.h"
#include "eval/experiments/bf16_drift.h"
#include "eval/experiments/experiment.h"
#include "model/dense_reference.h"
#include "registry/kv_codec_table.h"
#include "registry/position_plan_table.h"

namespace phasor::eval {
namespace {

constexpr int kDocuments = 4;

struct Sizes {
  int64_t drift_text, attention_document, model_document, checked_document;
  int rounds;
};
Sizes SizesOf(bool quick) { return quick ? Sizes{32, 64, 16, 8, 1} : Sizes{256, 1024, 256, 24, 3}; }

double MillisecondsOf(const std::function<void()>& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

void MeasureDrift(ExperimentReport* report) {
  constexpr std::pair<RopeArithmetic, const char*> kArithmetics[] = {
      {RopeArithmetic::kTurns, "turns"},
      {RopeArithmetic::kFp32, "fp32"},
      {RopeArithmetic::kBf16, "bf16"},
      {RopeArithmetic::kBf16Positions, "bf16_ids"}};
  ResultTable table{
      "Mean |change of a logit| when query and key both move by 16 positions, "
      "d = 128, base 500000",
      {"distance", "turns", "fp32", "bf16 cos, sin, q, k", "bf16 positions"},
      {}};
  for (const int64_t distance : {16, 200, 1000, 4000, 16000, 65536}) {
    std::vector<std::string> row = {std::to_string(distance)};
    for (const auto& [arithmetic, name] : kArithmetics) {
      const double drift = MeanDrift(arithmetic, distance, {});
      row.push_back(fmt::format("{:.2e}", drift));
      auto& most = report->measured[{"largest_drift", name}];
      most = std::max(most, drift);
      auto& least = report->measured.try_emplace({"smallest_drift", name}, INFINITY).first->second;
      least = std::min(least, drift);
      // bf16 holds whole numbers up to 256.
      if (distance + 16 <= 256) {
        auto& near = report->measured[{"drift_to_256", name}];
        near = std::max(near, drift);
      }
    }
    table.table.AddRow(std::move(row));
  }
  report->tables.push_back(std::move(table));
}

Status MeasureFirstKey(const ExperimentInput& input, const Sizes& sizes, ExperimentReport* report) {
  PHASOR_ASSIGN_OR_RETURN(const FirstKeyDrift drift,
                          MeasureFirstKeyDrift(*input.model, input.text.first(sizes.drift_text)));
  const double over_even = drift.share * static_cast<double>(drift.n_tokens);
  report->measured[{"first_key_share", "over_even"}] = over_even;
  report->tables.push_back(
      {"Attention weights under bf16 RoPE at +0 against +16, all heads of the model",
       {"tokens", "sum of |difference| per query", "first key's share", "over an even share"},
       {{std::to_string(drift.n_tokens), fmt::format("{:.3e}", drift.per_query),
         fmt::format("{:.3f}", drift.share), fmt::format("{:.1f}", over_even)}}});
  return Status::Ok();
}

Status CountPairs(const Sizes& sizes, ExperimentReport* report) {
  const int64_t n = sizes.attention_document;
  std::vector<PlanSpan> spans = {{.n_tokens = 1}};
  for (int i = 1; i <= kDocuments; ++i) spans.push_back({.n_tokens = n, .document = i});
  PHASOR_ASSIGN_OR_RETURN(const int64_t packed, CountAttendedPairs({.id = "anchor"}, spans));
  PHASOR_ASSIGN_OR_RETURN(const int64_t full, CountAttendedPairs({.id = "sequential"}, spans));
  report->measured[{"pairs", "anchor"}] = static_cast<double>(packed);
  report->measured[{"pairs", "full"}] = static_cast<double>(full);
  report->measured[{"pairs", "formula"}] =
      static_cast<double>(kDocuments * (n * (n + 1) / 2 + n) + 1);
  return Status::Ok();
}

// One layer's attention in the model's shape over random rows, read in chunks as prefill does.
class AttentionTimer {
 public:
  explicit AttentionTimer(const LoadedModel& model) : config_(model.config()), pool_(model.pool()) {
    shape_ = {config_.n_heads,
              config_.n_kv_heads,
              config_.head_dim,
              1 / std::sqrt(static_cast<float>(config_.head_dim)),
              0,
              model.transformer().weights().precision};
    Rng rng(1);
    row_.resize(static_cast<std::size_t>(kChunk) * config_.n_heads * config_.head_dim);
    for (float& x : row_) x = static_cast<float>(rng.Normal());
    out_.resize(row_.size());
  }

  Result<std::unique_ptr<KvCache>> NewCache() const {
    std::vector<KvHeadCodecs> codecs;
    for (int h = 0; h < config_.n_kv_heads; ++h) {
      const KvCodecParams k{.head_dim = config_.head_dim, .role = KvRole::kKey, .kv_head = h};
      const KvCodecParams v{.head_dim = config_.head_dim, .role = KvRole::kValue, .kv_head = h};
      KvHeadCodecs c;
      PHASOR_ASSIGN_OR_RETURN(c.key, MakeKvCodec("f16", k));
      PHASOR_ASSIGN_OR_RETURN(c.value, MakeKvCodec("f16", v));
      PHASOR_ASSIGN_OR_RETURN(c.key_rows, MakeRowKvCodec("f16", k));
      PHASOR_ASSIGN_OR_RETURN(c.value_rows, MakeRowKvCodec("f16", v));
      codecs.push_back(std::move(c));
    }
    return std::make_unique<KvCache>(
        KvCacheOptions{
            .n_layers = 1, .n_kv_heads = config_.n_kv_heads, .head_dim = config_.head_dim},
        std::move(codecs));
  }

  Status Read(int64_t n_tokens, KvCache* cache) {
    for (int64_t done = 0; done < n_tokens;) {
      const auto n = static_cast<int>(std::min<int64_t>(kChunk, n_tokens - done));
      PHASOR_RETURN_IF_ERROR(cache->Reserve(n));
      for (int h = 0; h < config_.n_kv_heads; ++h) {
        std::vector<float> k(row_.begin(), row_.begin() + n * config_.head_dim), v = k;
        cache->AppendHead(0, h, k.data(), v.data(), n);
      }
      std::vector<float> q(row_.begin(), row_.begin() + static_cast<int64_t>(n) * config_.n_heads *
                                                            config_.head_dim);
      Attend(shape_, *cache, 0, n, q.data(), out_.data(), scratch_, pool_);
      cache->CommitAppend(n);
      cache->Freeze(pool_);
      done += n;
    }
    return Status::Ok();
  }

 private:
  static constexpr int kChunk = 512;
  const ModelConfig& config_;
  ThreadPool& pool_;
  AttentionShape shape_;
  AttentionScratch scratch_;
  std::vector<float> row_, out_;
};

// Attention alone: four documents on a shared first token against all of them in a row.
Status TimeAttention(const ExperimentInput& input, const Sizes& sizes, ExperimentReport* report) {
  AttentionTimer timer(*input.model);
  double packed = INFINITY, full = INFINITY;
  Status status;
  for (int round = 0; round < sizes.rounds; ++round) {
    PHASOR_RETURN_IF_ERROR(CheckCancelled(input));
    PHASOR_ASSIGN_OR_RETURN(const auto whole, timer.NewCache());
    PHASOR_ASSIGN_OR_RETURN(const auto anchor, timer.NewCache());
    full = std::min(full, MillisecondsOf([&] {
                      status = timer.Read(1 + kDocuments * sizes.attention_document, whole.get());
                    }));
    PHASOR_RETURN_IF_ERROR(status);
    packed = std::min(packed, MillisecondsOf([&] {
                        status = timer.Read(1, anchor.get());
                        for (int i = 0; i < kDocuments && status.ok(); ++i) {
                          status = timer.Read(sizes.attention_document, anchor->Fork().get());
                        }
                      }));
    PHASOR_RETURN_IF_ERROR(status);
  }
  report->measured[{"attention_ms", "anchor"}] = packed;
  report->measured[{"attention_ms", "full"}] = full;
  return Status::Ok();
}

std::vector<std::vector<int32_t>> Documents(const ExperimentInput& input, int64_t n) {
  std::vector<std::vector<int32_t>> documents;
  for (int64_t i = 0; i < kDocuments; ++i) {
    const auto part = input.text.subspan(1 + i * n, n);
    documents.emplace_back(part.begin(), part.end());
  }
  return documents;
}

Status TimeModel(const ExperimentInput& input, const Sizes& sizes, ExperimentReport* report) {
  const auto documents = Documents(input, sizes.model_document);
  const int64_t n = 1 + kDocuments * sizes.model_document;
  PHASOR_ASSIGN_OR_RETURN(auto packed, PlainSession(*input.model, n, "f16"));
  PHASOR_ASSIGN_OR_RETURN(auto full, PlainSession(*input.model, n, "f16"));
  Status status;
  report->measured[{"model_ms", "full"}] = MillisecondsOf([&] {
    AppendOptions append;
    append.cancel = input.cancel;
    status = full->Append(input.text.first(n), append);
  });
  PHASOR_RETURN_IF_ERROR(status);
  PackOptions options;
  options.anchor = input.text.first(1);
  options.cancel = input.cancel;
  PHASOR_ASSIGN_OR_RETURN(const PackReport pack, ReadPacked(documents, options, packed.get()));
  report->measured[{"model_ms", "anchor"}] = pack.milliseconds;
  return Status::Ok();
}

// The control of CompareWithMask: the anchor and a document in a session of its own, without a
// fork. in_steps: the anchor first, as on forks; else both at once, which rounds sums in another
// order. Logits: [n - 1, vocab].
Result<std::vector<float>> ReadWithoutForks(const ExperimentInput& input, int64_t n_document,
                                            bool in_steps) {
  const auto vocab = static_cast<int64_t>(input.model->config().n_vocab);
  std::vector<float> logits(static_cast<std::size_t>(kDocuments * n_document * vocab));
  for (int64_t i = 0; i < kDocuments; ++i) {
    const auto text = input.text.subspan(1 + i * n_document, n_document);
    std::vector<int32_t> tokens = {input.text[0]};
    std::vector<PositionTicks> positions = {0};
    for (int64_t t = 0; t < n_document; ++t) {
      tokens.push_back(text[t]);
      positions.push_back((1 + i * n_document + t) * kTicksPerPosition);
    }
    PHASOR_ASSIGN_OR_RETURN(auto session, PlainSession(*input.model, n_document + 1));
    const int first = in_steps ? 1 : 0;
    if (in_steps) PHASOR_RETURN_IF_ERROR(session->Append(std::span(tokens).first(1), {}));
    AppendOptions append;
    append.cancel = input.cancel;
    append.positions = std::span(positions).subspan(first);
    append.on_logits = [&](int64_t index, std::span<const float> row) {
      const int64_t t = first + index - 1;  // of the document
      if (t >= 0) std::copy(row.begin(), row.end(), logits.begin() + (i * n_document + t) * vocab);
    };
    PHASOR_RETURN_IF_ERROR(session->Append(std::span(tokens).subspan(first), append));
  }
  return logits;
}

// Logits of every token: forks of the anchor against one masked pass in double.
Status CompareWithMask(const ExperimentInput& input, const Sizes& sizes, ExperimentReport* report) {
  const int64_t n_document = sizes.checked_document, n = 1 + kDocuments * n_document;
  const auto vocab = static_cast<int64_t>(input.model->config().n_vocab);
  PHASOR_ASSIGN_OR_RETURN(auto session, PlainSession(*input.model, n));
  std::vector<float> forked(static_cast<std::size_t>((n - 1) * vocab));
  PackOptions options;
  options.anchor = input.text.first(1);
  options.cancel = input.cancel;
  options.on_logits = [&](int document, int64_t index, std::span<const float> logits) {
    std::copy(logits.begin(), logits.end(),
              forked.begin() + (document * n_document + index) * vocab);
  };
  PHASOR_RETURN_IF_ERROR(ReadPacked(Documents(input, n_document), options, session.get()).status());
  const auto document = [&](int64_t t) { return t == 0 ? -1 : (t - 1) / n_document; };
  const auto sees = [&](int64_t q, int64_t k) {
    return k < q && (k == 0 || document(k) == document(q));
  };
  const std::vector<float> dense = DenseReferenceLogits(
      input.model->transformer(), {.tokens = input.text.first(n), .positions = {}, .sees = sees},
      input.model->pool());
  PHASOR_ASSIGN_OR_RETURN(const auto in_steps, ReadWithoutForks(input, n_document, true));
  PHASOR_ASSIGN_OR_RETURN(const auto at_once, ReadWithoutForks(input, n_document, false));
  const std::span<const float> masked = std::span(dense).subspan(static_cast<std::size_t>(vocab));
  const double forks = RelativeDifference(forked, masked);
  report->measured[{"difference", "forks"}] = forks;
  const auto row = [](const char* what, const char* from, double difference) {
    return std::vector<std::string>{what, from, fmt::format("{:.2e}", difference)};
  };
  report->tables.push_back({"Largest difference of a logit, over the largest logit",
                            {"documents", "from", "difference"},
                            {row("on forks of the anchor", "masked forward in double", forks),
                             row("without forks, all at once", "masked forward in double",
                                 RelativeDifference(at_once, masked)),
                             row("without forks, the anchor first", "without forks, all at once",
                                 RelativeDifference(in_steps, at_once)),
                             row("on forks of the anchor", "without forks, the anchor first",
                                 RelativeDifference(forked, in_steps))}});
  return Status::Ok();
}

Result<ExperimentReport> Run(const ExperimentInput& input) {
  const Sizes sizes = SizesOf(input.quick);
  ExperimentReport report;
  MeasureDrift(&report);
  PHASOR_RETURN_IF_ERROR(CheckCancelled(input));
  PHASOR_RETURN_IF_ERROR(MeasureFirstKey(input, sizes, &report));
  PHASOR_RETURN_IF_ERROR(CompareWithMask(input, sizes, &report));
  PHASOR_RETURN_IF_ERROR(CountPairs(sizes, &report));
  PHASOR_RETURN_IF_ERROR(TimeAttention(input, sizes, &report));
  PHASOR_RETURN_IF_ERROR(TimeModel(input, sizes, &report));
  ResultTable table{"Four documents on a shared first token against one text",
                    {"what", "one text", "four documents", "ratio"},
                    {}};
  const auto row = [&](const char* metric, const std::string& name) {
    const double full = report.measured[{metric, "full"}];
    const double packed = report.measured[{metric, "anchor"}];
    table.table.AddRow({name, fmt::format("{:.0f}", full), fmt::format("{:.0f}", packed),
                        fmt::format("{:.3f}", packed / full)});
  };
  row("pairs", fmt::format("pairs attended, documents of {} tokens", sizes.attention_document));
  row("attention_ms", "ms of one layer's attention over them");
  row("model_ms",
      fmt::format("ms of the whole model, documents of {} tokens", sizes.model_document));
  report.tables.push_back(std::move(table));
  return report;
}

Result<ExperimentNeeds> Needs(const ExperimentInput& input) {
  const Sizes s = SizesOf(input.quick);
  const int64_t documents = kDocuments * std::max(s.model_document, s.checked_document);
  return NeedsWithoutSettings(input, std::max(s.drift_text, 1 + documents));
}

}  // namespace

const Experiment kAnchorExperiment = {"anchor", Needs, Run};

}  // namespace phasor::eval
