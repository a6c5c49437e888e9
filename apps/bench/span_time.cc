#include "bench/span_time.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>

#include "attention/attention.h"
#include "base/aligned.h"
#include "base/cancel.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/table.h"
#include "base/thread_pool.h"
#include "cache/kv_cache.h"
#include "kvcodec/polar_codec.h"
#include "ops/vector_ops.h"
#include "registry/kv_codec_table.h"
#include "simd/cpu.h"

namespace phasor::bench {
namespace {

constexpr int kChunkTokens = 1024;

double MicrosecondsOf(const std::function<void()>& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

PhaseTable RopeTable(int head_dim) {
  PhaseTable table;
  for (int j = 0; j < head_dim / 2; ++j) {
    const double turns = std::pow(10000.0, -2.0 * j / head_dim) / (2 * std::numbers::pi);
    table.step_P.push_back(static_cast<uint64_t>(turns * 0x1p64));
  }
  return table;
}

class SpanMeter {
 public:
  SpanMeter(const SpanTimeOptions& o, const KvTypes& types, ThreadPool& pool)
      : o_(o), types_(types), pool_(pool), table_(RopeTable(o.head_dim)) {}

  Status Fill() {
    std::vector<float> omega_P;
    for (uint64_t step : table_.step_P) {
      omega_P.push_back(
          static_cast<float>(static_cast<double>(step) * 0x1p-64 * 2 * std::numbers::pi));
    }
    std::vector<KvHeadCodecs> codecs;
    for (int h = 0; h < o_.n_kv_heads; ++h) {
      KvCodecParams k, v;
      k.head_dim = v.head_dim = o_.head_dim;
      k.n_rot = v.n_rot = o_.head_dim;
      k.omega_P = omega_P;
      k.kv_head = v.kv_head = h;
      v.role = KvRole::kValue;
      KvHeadCodecs c;
      PHASOR_ASSIGN_OR_RETURN(c.key, MakeKvCodec(types_.k, k));
      PHASOR_ASSIGN_OR_RETURN(c.value, MakeKvCodec(types_.v, v));
      PHASOR_ASSIGN_OR_RETURN(c.key_rows, MakeRowKvCodec("f16", k));
      PHASOR_ASSIGN_OR_RETURN(c.value_rows, MakeRowKvCodec("f16", v));
      codecs.push_back(std::move(c));
    }
    cache_ = std::make_unique<KvCache>(
        KvCacheOptions{1, o_.n_kv_heads, o_.head_dim, 4, 0, o_.head_dim, RopePairing::kHalfSplit},
        std::move(codecs));
    cache_->SetSchedule(table_);
    Rng rng(1);
    for (int64_t done = 0; done < o_.n_tokens;) {
      const int n = static_cast<int>(std::min<int64_t>(kChunkTokens, o_.n_tokens - done));
      PHASOR_RETURN_IF_ERROR(cache_->Reserve(n));
      std::vector<float> k(static_cast<std::size_t>(n) * o_.head_dim), v(k.size());
      for (int h = 0; h < o_.n_kv_heads; ++h) {
        for (float& x : k) x = static_cast<float>(rng.Normal());
        for (float& x : v) x = static_cast<float>(rng.Normal());
        cache_->AppendHead(0, h, k.data(), v.data(), n);
      }
      cache_->CommitAppend(n);
      cache_->Freeze(pool_);
      done += n;
    }
    cache_->FreezeOlderThan(cache_->n_tokens(), pool_);
    q_.resize(static_cast<std::size_t>(o_.n_kv_heads) * o_.group * o_.head_dim);
    for (float& x : q_) x = static_cast<float>(rng.Normal());
    PHASOR_ASSIGN_OR_RETURN(text_, cache_->Slice(0, o_.n_tokens));
    return Status::Ok();
  }

  // Where span i of n begins. At borders of pages (as long as there are enough) turning alone is
  // measured, elsewhere also that both parts of a cut page are scored.
  int64_t CutAt(int64_t i, int64_t n, bool at_borders) const {
    const auto n_pieces = static_cast<int64_t>(text_.pieces().size());
    if (!at_borders || i == 0 || i == n || n > n_pieces) return o_.n_tokens * i / n;
    int64_t token = 0;
    for (int64_t p = 0; p < n_pieces * i / n; ++p) token += text_.pieces()[p].n_rows;
    return token;
  }

  // Cuts the text into n spans and moves each a little further than the one before.
  Status Cut(int n, bool at_borders, double* move_us) {
    std::vector<KvSpan> spans;
    cache_->Clear();
    PHASOR_RETURN_IF_ERROR(cache_->Attach(text_, {.position = 0, .same_left_context = true}));
    for (int i = 0; i < n; ++i) {
      PHASOR_ASSIGN_OR_RETURN(KvSpan span,
                              cache_->Slice(CutAt(i, n, at_borders), CutAt(i + 1, n, at_borders)));
      spans.push_back(std::move(span));
    }
    Status status;
    *move_us = MicrosecondsOf([&] {
      cache_->Clear();
      for (int i = 0; i < n && status.ok(); ++i) {
        const PositionTicks at = spans[i].first_position() + i * 7 * kTicksPerPosition;
        status = cache_->Attach(spans[i], {.position = at});
      }
    });
    return status;
  }

  Result<double> StepMicroseconds() {
    const AttentionShape shape = {.n_heads = o_.n_kv_heads * o_.group,
                                  .n_kv_heads = o_.n_kv_heads,
                                  .head_dim = o_.head_dim,
                                  .scale = 1.0f / std::sqrt(static_cast<float>(o_.head_dim))};
    PHASOR_RETURN_IF_ERROR(cache_->Reserve(1));
    std::vector<float> row(o_.head_dim, 0.1f);
    for (int h = 0; h < o_.n_kv_heads; ++h) {
      std::vector<float> k = row, v = row;
      cache_->AppendHead(0, h, k.data(), v.data(), 1);
    }
    std::vector<float> out(q_.size());
    double best = INFINITY;
    for (int i = 0; i < o_.n_rounds; ++i) {
      std::vector<float> q = q_;
      best = std::min(best, MicrosecondsOf([&] {
                        Attend(shape, *cache_, 0, 1, q.data(), out.data(), scratch_, pool_);
                      }));
    }
    return best;
  }

  // Turning the keys of every page of the text by some distance, instead of the queries.
  double TurnPagesMicroseconds(bool* keeps_codes) {
    const int P = o_.head_dim / 2;
    std::vector<uint16_t> phase16(static_cast<std::size_t>(P));
    std::vector<float> cos(static_cast<std::size_t>(P)), sin(cos.size());
    for (int j = 0; j < P; ++j) {
      phase16[j] = static_cast<uint16_t>(TurnsAt(table_.step_P[j], 7 * kTicksPerPosition) >> 48);
    }
    RopeAngles(table_, 7, cos.data(), sin.data());
    *keeps_codes = dynamic_cast<const PolarCodec*>(cache_->codecs(0, 0).key.get()) != nullptr;
    AlignedBuffer<std::byte> page(cache_->codecs(0, 0).key->PageBytes());
    std::vector<float> x(static_cast<std::size_t>(kPageTokens) * o_.head_dim);
    auto turn = [&](const KvPiece& piece, int head) {
      const KvCodec& codec = *cache_->codecs(0, head).key;
      const KvStore& store = *cache_->store();
      const std::byte* from = store.KeyPage(piece.kind, piece.block, 0, head);
      if (const auto* polar = dynamic_cast<const PolarCodec*>(&codec)) {
        std::copy_n(from, page.size(), page.data());  // shared pages must not be written
        polar->AddPhases(phase16.data(), page.data());
        return;
      }
      codec.DecodePage(from, piece.n_rows, x.data());
      if (codec.HasRotation()) codec.Unrotate(x.data(), piece.n_rows);
      ApplyRope(x.data(), piece.n_rows, o_.head_dim, o_.head_dim, RopePairing::kHalfSplit,
                cos.data(), sin.data());
      if (codec.HasRotation()) codec.Rotate(x.data(), piece.n_rows);
      codec.EncodePage(x.data(), piece.n_rows, page.data());
    };
    double best = INFINITY;
    for (int i = 0; i < 3; ++i) {
      best = std::min(best, MicrosecondsOf([&] {
                        for (const KvPiece& piece : text_.pieces()) {
                          if (piece.kind != KvBlockKind::kCodes) continue;
                          for (int h = 0; h < o_.n_kv_heads; ++h) turn(piece, h);
                        }
                      }));
    }
    return best;
  }

 private:
  const SpanTimeOptions& o_;
  KvTypes types_;
  ThreadPool& pool_;
  PhaseTable table_;
  std::unique_ptr<KvCache> cache_;
  KvSpan text_;
  std::vector<float> q_;
  AttentionScratch scratch_;
};

}  // namespace

Result<std::vector<SpanTime>> MeasureSpanTime(const SpanTimeOptions& o) {
  ThreadPool pool(o.n_threads > 0 ? o.n_threads : DefaultThreadCount());
  ProgressBar bar("spans", static_cast<int64_t>(o.types.size() * (o.spans.size() + 1)), "steps");
  int64_t done = 0;
  std::vector<SpanTime> rows;
  for (const KvTypes& types : o.types) {
    SpanMeter meter(o, types, pool);
    PHASOR_RETURN_IF_ERROR(meter.Fill());
    bool keeps_codes = false;
    const double turn_us = meter.TurnPagesMicroseconds(&keeps_codes);
    bar.Set(++done);
    double move_us = 0;
    PHASOR_RETURN_IF_ERROR(meter.Cut(1, true, &move_us));
    PHASOR_ASSIGN_OR_RETURN(const double one, meter.StepMicroseconds());
    for (int n : o.spans) {
      if (InterruptFlag::flag().load()) return Cancelled("bench: stopped by Ctrl-C");
      if (n > o.n_tokens) {
        return InvalidArgument(
            fmt::format("--spans: expected at most {} (one a token), found {}", o.n_tokens, n));
      }
      PHASOR_RETURN_IF_ERROR(meter.Cut(n, false, &move_us));
      PHASOR_ASSIGN_OR_RETURN(const double cut, meter.StepMicroseconds());
      PHASOR_RETURN_IF_ERROR(meter.Cut(n, true, &move_us));
      PHASOR_ASSIGN_OR_RETURN(const double step, meter.StepMicroseconds());
      const double extra = step - one;
      rows.push_back({types, n, step, step / one, cut, cut / one, move_us, turn_us, keeps_codes,
                      extra > 0 ? turn_us / extra : INFINITY});
      bar.Set(++done);
    }
  }
  return rows;
}

void PrintSpanTimes(const std::vector<SpanTime>& rows, const SpanTimeOptions& o,
                    const std::string& cpu_name, const std::string& format) {
  if (format == "json" || format == "jsonl") {
    nlohmann::ordered_json j = {{"cpu_info", cpu_name},
                                {"cpu_level", CpuLevelName(ActiveCpuLevel())},
                                {"n_tokens", o.n_tokens},
                                {"head_dim", o.head_dim},
                                {"n_kv_heads", o.n_kv_heads},
                                {"group", o.group},
                                {"results", nlohmann::ordered_json::array()}};
    for (const SpanTime& r : rows) {
      j["results"].push_back({{"type_k", r.types.k},
                              {"type_v", r.types.v},
                              {"n_spans", r.n_spans},
                              {"step_us", r.step_us},
                              {"step_over_one_span", r.over_one},
                              {"cut_anywhere_us", r.cut_us},
                              {"cut_anywhere_over_one_span", r.cut_over_one},
                              {"move_us", r.move_us},
                              {"turn_pages_us", r.turn_us},
                              {"turning_keeps_codes", r.turn_keeps_codes},
                              {"break_even_steps", r.break_even_steps}});
    }
    fmt::print("{}\n", j.dump(format == "json" ? 2 : -1));
    return;
  }
  using Align = Table::Align;
  Table table({{"type_k", Align::kLeft},
               {"type_v", Align::kLeft},
               {"spans", Align::kRight},
               {"step us", Align::kRight},
               {"over one span", Align::kRight},
               {"cut anywhere", Align::kRight},
               {"move us", Align::kRight},
               {"turn pages us", Align::kRight},
               {"codes kept", Align::kLeft},
               {"pays after steps", Align::kRight}});
  for (const SpanTime& r : rows) {
    table.AddRow(
        {r.types.k, r.types.v, fmt::format("{}", r.n_spans), fmt::format("{:.0f}", r.step_us),
         fmt::format("{:.2f}", r.over_one), fmt::format("{:.2f}", r.cut_over_one),
         fmt::format("{:.1f}", r.move_us), fmt::format("{:.0f}", r.turn_us),
         r.turn_keeps_codes ? "yes" : "no",
         std::isfinite(r.break_even_steps) ? fmt::format("{:.0f}", r.break_even_steps) : "never"});
  }
  fmt::print("{}", table.Render(*ParseTableFormat(format)));
  if (format == "csv") return;
  fmt::print(
      "\n{}, {}. One layer: {} tokens, head size {}, {} KV heads, {} query heads each; minimum of "
      "{} "
      "rounds. step: decode attention of one token, queries turned once a span, text cut at "
      "borders of pages; cut anywhere: the same over one span when both parts of a cut page are "
      "scored; move: all spans, "
      "in the ledger (for all layers at once); turn pages: the keys of every page turned "
      "instead.\n",
      cpu_name, CpuLevelName(ActiveCpuLevel()), o.n_tokens, o.head_dim, o.n_kv_heads, o.group,
      o.n_rounds);
}

}  // namespace phasor::bench
