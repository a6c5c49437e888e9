// Time per token of scoring and accumulating, codes in the L2 cache: 16 pages one after the other.
//
// Read `ns_per_token`: time per cached token and KV head, for all g query heads together. Names end
// in D (head size), g (query heads) and level (0 plain C++, 1 AVX2, 2 AVX-512); for example
// --benchmark_filter='accumulate/(f16|q4_head)/D:64/g:./level:2'. `frame4/spread` and
// `frame3/spread` have widths as calibration gives them, in a frame that turns; `stretched` are
// values with directions as calibration gives them; `prepare` is the time of a query, once per
// token and KV head, in `ns_per_query`.
#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/rng.h"
#include "kvcodec/kvcodec.h"
#include "registry/kv_codec_table.h"
#include "simd/cpu.h"

namespace phasor {
namespace {

constexpr int kPages = 16;

struct Setup {
  std::unique_ptr<KvCodec> codec;
  AlignedBuffer<std::byte> pages;
  AlignedBuffer<std::byte> prepared;
  std::vector<float> weight, rows;
};

// Widths of a frame codec from 1.5 above to 1.5 below its mean, in steps of four channels.
std::vector<uint8_t> SpreadWidths(double mean, int head_dim) {
  std::vector<uint8_t> width_D;
  const int n_quads = (head_dim + 3) / 4;
  for (int d = 0; d < head_dim; ++d) {
    const int quad = d / 4;
    const double place = (quad + 0.5) / n_quads;
    width_D.push_back(static_cast<uint8_t>(std::lround(mean + 3 * (0.5 - place))));
  }
  return width_D;
}

Setup MakeSetup(const KvCodecInfo& info, KvRole role, int head_dim, int g, bool spread = false) {
  KvCodecParams params;
  params.head_dim = head_dim;
  params.n_rot = head_dim / 2 * 2;
  params.role = role;
  std::vector<uint8_t> classes;
  std::vector<float> omega;
  std::vector<float> size_D(static_cast<std::size_t>(head_dim), 1.0f);
  if (spread) {
    classes = SpreadWidths(info.nominal_bits_64 - 0.25, head_dim);
    for (int j = 0; j < params.n_rot / 2; ++j) {
      omega.push_back(static_cast<float>(std::pow(10000.0, -2.0 * j / params.n_rot)));
    }
    // As calibration has it: the strong channels have the bits, so that steps are alike.
    for (int d = 0; d < head_dim; ++d) size_D[d] = std::exp2(static_cast<float>(classes[d]) - 4);
    params.classes = classes;
    params.omega_P = omega;
  }
  Setup s;
  auto made = MakeKvCodec(info.id, params);
  if (!made.ok()) return s;
  s.codec = std::move(made).value();
  Rng rng(1);
  s.rows.resize(kPageTokens * head_dim);
  s.pages.Resize(kPages * s.codec->PageBytes());
  for (int p = 0; p < kPages; ++p) {
    for (std::size_t i = 0; i < s.rows.size(); ++i) {
      s.rows[i] = size_D[i % size_D.size()] * static_cast<float>(rng.Normal());
    }
    s.codec->EncodePage(s.rows.data(), kPageTokens, s.pages.data() + p * s.codec->PageBytes());
  }
  s.weight.resize(g * kPageTokens);
  // Of the kind attention passes: exp(score - running maximum) of a page without that maximum.
  for (float& w : s.weight) w = static_cast<float>(std::exp(1.5 * rng.Normal() - 9.0));
  if (role == KvRole::kKey) {
    s.prepared.Resize(s.codec->PreparedQueryBytes(g));
    std::vector<float> q(static_cast<std::size_t>(g * head_dim));
    for (float& v : q) v = static_cast<float>(rng.Normal());
    s.codec->PrepareQuery(q.data(), g, s.prepared.data());
  }
  return s;
}

void Report(benchmark::State& state, int64_t n_tokens) {
  state.counters["ns_per_token"] = benchmark::Counter(
      static_cast<double>(n_tokens) * 1e-9,
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

// Takes the level from argument `index`; false where this machine lacks it.
bool SetLevel(benchmark::State& state, int index) {
  if (SetCpuLevel(static_cast<CpuLevel>(state.range(index))).ok()) return true;
  state.SkipWithError("CPU level not available");
  return false;
}

template <bool kSpread>
void Score(benchmark::State& state, const KvCodecInfo* info) {
  const int head_dim = static_cast<int>(state.range(0)), g = static_cast<int>(state.range(1));
  if (!SetLevel(state, 2)) return;
  Setup s = MakeSetup(*info, KvRole::kKey, head_dim, g, kSpread);
  if (s.codec == nullptr) return state.SkipWithError("head size not supported");
  std::vector<float> score(g * kPageTokens);
  for (auto _ : state) {
    for (int p = 0; p < kPages; ++p) {
      s.codec->ScorePage(s.prepared.data(), g, s.pages.data() + p * s.codec->PageBytes(),
                         kPageTokens, score.data());
    }
    benchmark::DoNotOptimize(score.data());
  }
  Report(state, kPages * kPageTokens);
}

void Prepare(benchmark::State& state, const KvCodecInfo* info) {
  const int head_dim = static_cast<int>(state.range(0)), g = static_cast<int>(state.range(1));
  if (!SetLevel(state, 2)) return;
  Setup s = MakeSetup(*info, KvRole::kKey, head_dim, g);
  if (s.codec == nullptr) return state.SkipWithError("head size not supported");
  for (auto _ : state) s.codec->PrepareQuery(s.rows.data(), g, s.prepared.data());
  state.counters["ns_per_query"] = benchmark::Counter(
      g * 1e-9, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void Accumulate(benchmark::State& state, const KvCodecInfo* info) {
  const int head_dim = static_cast<int>(state.range(0)), g = static_cast<int>(state.range(1));
  if (!SetLevel(state, 2)) return;
  Setup s = MakeSetup(*info, KvRole::kValue, head_dim, g);
  if (s.codec == nullptr) return state.SkipWithError("head size not supported");
  std::vector<float> out(g * head_dim);
  for (auto _ : state) {
    for (int p = 0; p < kPages; ++p) {
      s.codec->AccumulatePage(s.weight.data(), g, s.pages.data() + p * s.codec->PageBytes(),
                              kPageTokens, out.data());
    }
    benchmark::DoNotOptimize(out.data());
  }
  Report(state, kPages * kPageTokens);
}

// Values with the eight directions that calibration gives a head.
void EncodeStretched(benchmark::State& state, const KvCodecInfo* info, bool rotate) {
  const int head_dim = static_cast<int>(state.range(0));
  if (!SetLevel(state, 1)) return;
  Setup s = MakeSetup(*info, KvRole::kValue, head_dim, 1);
  KvCodecParams params;
  params.head_dim = head_dim;
  params.role = KvRole::kValue;
  std::vector<float> factors(8, 0.5f), directions(factors.size() * head_dim);
  Rng rng(2);
  for (float& d : directions) d = static_cast<float>(rng.Normal());
  params.factor_N = factors;
  params.direction_ND = directions;
  auto made = MakeKvCodec(info->id, params);
  if (!made.ok()) return state.SkipWithError("head size not supported");
  std::vector<float> rotated(s.rows.size());
  for (auto _ : state) {
    if (rotate) {
      rotated = s.rows;  // or they would become smaller every time
      (*made)->Rotate(rotated.data(), kPageTokens);
      benchmark::DoNotOptimize(rotated.data());
    } else {
      (*made)->EncodePage(s.rows.data(), kPageTokens, s.pages.data());
    }
  }
  Report(state, kPageTokens);
}

void Encode(benchmark::State& state, const KvCodecInfo* info, KvRole role) {
  if (!SetLevel(state, 1)) return;
  Setup s = MakeSetup(*info, role, static_cast<int>(state.range(0)), 1);
  if (s.codec == nullptr) return state.SkipWithError("head size not supported");
  for (auto _ : state) s.codec->EncodePage(s.rows.data(), kPageTokens, s.pages.data());
  Report(state, kPageTokens);
}

void Decode(benchmark::State& state, const KvCodecInfo* info, KvRole role) {
  if (!SetLevel(state, 1)) return;
  Setup s = MakeSetup(*info, role, static_cast<int>(state.range(0)), 1);
  if (s.codec == nullptr) return state.SkipWithError("head size not supported");
  for (auto _ : state) s.codec->DecodePage(s.pages.data(), kPageTokens, s.rows.data());
  Report(state, kPageTokens);
}

void RegisterAll() {
  std::vector<int64_t> levels;
  for (CpuLevel level : AvailableCpuLevels()) levels.push_back(static_cast<int64_t>(level));
  for (const KvCodecInfo& info : KvCodecs()) {
    const std::string id = info.id;
    for (KvRole role : {KvRole::kKey, KvRole::kValue}) {
      const bool key = role == KvRole::kKey;
      if (key ? !info.for_keys : !info.for_values) continue;
      for (int64_t head_dim : {64, 80, 96, 128, 256}) {
        benchmark::RegisterBenchmark(((key ? "score/" : "accumulate/") + id).c_str(),
                                     key ? Score<false> : Accumulate, &info)
            ->ArgNames({"D", "g", "level"})
            ->ArgsProduct({{head_dim}, {1, 2, 3, 4, 5, 6, 7, 8}, levels});
      }
      if (key) {
        benchmark::RegisterBenchmark(("prepare/" + id).c_str(), Prepare, &info)
            ->ArgNames({"D", "g", "level"})
            ->ArgsProduct({{64, 128}, {1, 4}, levels});
      }
      if (id == kFrame4KvCodec.id || id == kFrame3KvCodec.id) {
        benchmark::RegisterBenchmark(("score/" + id + "/spread").c_str(), Score<true>, &info)
            ->ArgNames({"D", "g", "level"})
            ->ArgsProduct({{64, 80, 96, 128, 256}, {1, 2, 3, 4, 5, 6, 7, 8}, levels});
      }
      if (!key && info.uses_calibration) {
        for (const bool rotate : {false, true}) {
          benchmark::RegisterBenchmark(
              ((rotate ? "rotate/" : "encode/") + id + "/values/stretched").c_str(),
              EncodeStretched, &info, rotate)
              ->ArgNames({"D", "level"})
              ->ArgsProduct({{64, 128}, levels});
        }
      }
      const std::string suffix = id + (key ? "/keys" : "/values");
      benchmark::RegisterBenchmark(("encode/" + suffix).c_str(), Encode, &info, role)
          ->ArgNames({"D", "level"})
          ->ArgsProduct({{64, 128}, levels});
      benchmark::RegisterBenchmark(("decode/" + suffix).c_str(), Decode, &info, role)
          ->ArgNames({"D", "level"})
          ->ArgsProduct({{64, 128}, levels});
    }
  }
}

}  // namespace
}  // namespace phasor

int main(int argc, char** argv) {
  phasor::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
