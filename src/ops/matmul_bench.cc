// Rates of the matrix kernels.
//   matvec  bytes of packed weights per second at one token, over more weights than the last-level
//           cache holds, so this is memory. `stream` is the yardstick: memory that is only read.
//   matmul  multiply and add as two operations per weight and token; `peak` is the yardstick.
//   decode  all products of one token of the default model (SmolLM2 135M, Q4_1 with a Q8_0 head).
//   gemm    the float product of prefill attention.
// Quiet machines are rare: `best` is the rate of the fastest single round; with one thread it
// counts processor time.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/rng.h"
#include "ops/matmul.h"
#include "ops/matmul_peak_avx512.h"
#include "registry/weight_codec_table.h"
#include "simd/cpu.h"
#include "tensor/half.h"

namespace phasor {
namespace {

// Random bytes with f16 factors that are finite: every block starts with them, or (Q6_K) ends.
std::vector<std::byte> RandomWeights(const WeightCodecInfo& codec, int64_t n_rows, int64_t n_cols) {
  Rng rng(1);
  std::vector<std::byte> data(static_cast<std::size_t>(n_rows * RowBytes(codec.dtype, n_cols)));
  for (std::size_t i = 0; i + 8 <= data.size(); i += 8) {
    // Without bit 14 of every half word no f16 or f32 is infinite or NaN.
    uint64_t bits = rng.NextU64() & 0xbfffbfffbfffbfffull;
    std::memcpy(&data[i], &bits, sizeof(bits));
  }
  return data;
}

PackedMatrix MakeMatrix(const WeightCodecInfo& codec, int64_t n_rows, int64_t n_cols,
                        ThreadPool& pool) {
  auto data = RandomWeights(codec, n_rows, n_cols);
  auto packed =
      PackedMatrix::Pack(codec, data.data(), n_rows, n_cols, MatMulPrecision::kInt8, pool);
  return packed.ok() ? std::move(*packed) : PackedMatrix();
}

std::vector<float> RandomFloats(int64_t n) {
  Rng rng(2);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) v = static_cast<float>(rng.Normal());
  return x;
}

// Seconds since some moment: of the calling thread's processor time, which a busy machine leaves
// alone, or of the clock where other threads take part.
double Seconds(int n_threads) {
  timespec now;
  clock_gettime(n_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Runs `round` for the time the benchmark asks for; `work` is what one round does, in bytes or
// operations.
template <typename F>
void MeasureRounds(benchmark::State& state, int n_threads, double work, const char* unit,
                   F&& round) {
  double best_seconds = 1e30;
  for (auto _ : state) {
    const double start = Seconds(n_threads);
    round();
    benchmark::ClobberMemory();
    best_seconds = std::min(best_seconds, Seconds(n_threads) - start);
  }
  state.counters[unit] = benchmark::Counter(work * static_cast<double>(state.iterations()),
                                            benchmark::Counter::kIsRate);
  state.counters["best"] = work / best_seconds;
}

// A model's worth of one matrix after the other, so that nothing stays in cache between rounds.
void BenchMatVec(benchmark::State& state, const WeightCodecInfo* codec, int64_t n_rows,
                 int64_t n_cols, int n_threads, int64_t total_bytes) {
  ThreadPool pool(n_threads);
  std::vector<PackedMatrix> w;
  int64_t bytes = 0;
  while (bytes < total_bytes) {
    w.push_back(MakeMatrix(*codec, n_rows, n_cols, pool));
    if (w.back().size_bytes() == 0) return state.SkipWithError("weights were refused");
    bytes += static_cast<int64_t>(w.back().size_bytes());
  }
  auto x = RandomFloats(n_cols);
  std::vector<float> y(static_cast<std::size_t>(n_rows));
  MatMulScratch scratch;
  MeasureRounds(state, n_threads, static_cast<double>(bytes), "B/s", [&] {
    for (const PackedMatrix& m : w) {
      MatMulJob job{.w = &m, .y = y.data()};
      MatMul({&job, 1}, x.data(), 0, 1, scratch, pool);
    }
  });
}

void BenchStream(benchmark::State& state, int n_threads, int64_t total_bytes) {
  ThreadPool pool(n_threads);
  HugeBlock block(static_cast<std::size_t>(total_bytes));
  std::memset(block.data(), 1, block.size());
  const uint64_t* data = reinterpret_cast<const uint64_t*>(block.data());
  const int64_t n = total_bytes / 8 / n_threads;
  constexpr int64_t kAhead = 1024;  // words: 8 KiB
  std::atomic<uint64_t> total{0};
  MeasureRounds(state, n_threads, static_cast<double>(total_bytes), "B/s", [&] {
    pool.Run([&](int thread) {
      uint64_t sums[8] = {};
      for (int64_t i = thread * n; i + 8 <= (thread + 1) * n; i += 8) {
        __builtin_prefetch(data + i + kAhead);
        for (int j = 0; j < 8; ++j) sums[j] += data[i + j];
      }
      uint64_t sum = 0;
      for (uint64_t s : sums) sum += s;
      total += sum;
    });
  });
  benchmark::DoNotOptimize(total.load());
}

// The matrices of one layer as the model groups them into calls.
struct Layer {
  PackedMatrix q, k, v, o, gate, up, down;
};

void BenchDecode(benchmark::State& state, int n_threads) {
  constexpr int64_t kDim = 576, kKv = 192, kHidden = 1536, kVocabulary = 49152;
  const WeightCodecInfo& q4 = *FindWeightCodec(DType::kQ4_1);
  ThreadPool pool(n_threads);
  std::vector<Layer> layers(30);
  for (Layer& l : layers) {
    l.q = MakeMatrix(q4, kDim, kDim, pool);
    l.k = MakeMatrix(q4, kKv, kDim, pool);
    l.v = MakeMatrix(q4, kKv, kDim, pool);
    l.o = MakeMatrix(q4, kDim, kDim, pool);
    l.gate = MakeMatrix(q4, kHidden, kDim, pool);
    l.up = MakeMatrix(q4, kHidden, kDim, pool);
    l.down = MakeMatrix(q4, kDim, kHidden, pool);
  }
  PackedMatrix head = MakeMatrix(*FindWeightCodec(DType::kQ8_0), kVocabulary, kDim, pool);
  auto x = RandomFloats(kHidden);
  std::vector<float> y(kVocabulary);
  MatMulScratch scratch;
  auto run = [&](std::initializer_list<const PackedMatrix*> weights) {
    MatMulJob jobs[3];
    int n = 0;
    float* out = y.data();
    for (const PackedMatrix* w : weights) {
      jobs[n++] = {.w = w, .y = out};
      out += w->n_rows();
    }
    MatMul({jobs, static_cast<std::size_t>(n)}, x.data(), 0, 1, scratch, pool);
  };
  const Layer& first = layers[0];
  std::size_t bytes = head.size_bytes();
  for (const PackedMatrix* w :
       {&first.q, &first.k, &first.v, &first.o, &first.gate, &first.up, &first.down}) {
    bytes += layers.size() * w->size_bytes();
  }
  MeasureRounds(state, n_threads, static_cast<double>(bytes), "B/s", [&] {
    for (const Layer& l : layers) {
      run({&l.q, &l.k, &l.v});
      run({&l.o});
      run({&l.gate, &l.up});
      run({&l.down});
    }
    run({&head});
  });
}

void BenchMatMul(benchmark::State& state, const WeightCodecInfo* codec, int64_t n_rows,
                 int64_t n_cols, int n_tokens, int n_threads) {
  ThreadPool pool(n_threads);
  PackedMatrix w = MakeMatrix(*codec, n_rows, n_cols, pool);
  if (w.size_bytes() == 0) return state.SkipWithError("weights were refused");
  auto x = RandomFloats(n_cols * n_tokens);
  std::vector<float> y(static_cast<std::size_t>(n_rows * n_tokens));
  MatMulScratch scratch;
  MeasureRounds(state, n_threads, 2.0 * static_cast<double>(n_rows * n_cols * n_tokens), "op/s",
                [&] {
                  MatMulJob job{.w = &w, .y = y.data()};
                  MatMul({&job, 1}, x.data(), 0, n_tokens, scratch, pool);
                });
}

void BenchGemm(benchmark::State& state, int m, int n, int k) {
  auto a = RandomFloats(m * k), b = RandomFloats(k * n);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  MeasureRounds(state, 1, 2.0 * m * n * k, "flop/s",
                [&] { GemmF32(a.data(), k, b.data(), n, c.data(), n, m, n, k, false); });
}

#if defined(__x86_64__)
void BenchPeak(benchmark::State& state, int n_threads) {
  if (!IsAvx512(DetectedCpuLevel())) return state.SkipWithError("needs AVX-512 VNNI");
  constexpr int64_t kRounds = 100000;
  ThreadPool pool(n_threads);
  std::atomic<int64_t> total{0};
  MeasureRounds(state, n_threads, 2.0 * 64 * 16 * kRounds * n_threads, "op/s",
                [&] { pool.Run([&](int) { total += RunDotProductPeak(kRounds); }); });
  benchmark::DoNotOptimize(total.load());
}
#endif

template <typename F, typename... Args>
void Register(const std::string& name, F function, Args... args) {
  benchmark::RegisterBenchmark(name.c_str(), function, args...)->UseRealTime();
}

void RegisterAll() {
  constexpr int64_t kModelBytes = 64 << 20;
  for (int threads : {1, 2}) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    Register("stream" + suffix, BenchStream, threads, 4 * kModelBytes);
    for (const WeightCodecInfo* codec : WeightCodecs()) {
      Register("matvec/" + std::string(codec->id) + "/2048x2048" + suffix, BenchMatVec, codec,
               int64_t{2048}, int64_t{2048}, threads, kModelBytes);
    }
    Register("decode/smollm2-135m" + suffix, BenchDecode, threads);
    const WeightCodecInfo* q8 = FindWeightCodec(DType::kQ8_0);
    const WeightCodecInfo* q4 = FindWeightCodec(DType::kQ4_1);
    Register("matvec/q8_0/49152x576" + suffix, BenchMatVec, q8, int64_t{49152}, int64_t{576},
             threads, kModelBytes);
    Register("matvec/q4_1/1536x576" + suffix, BenchMatVec, q4, int64_t{1536}, int64_t{576}, threads,
             kModelBytes);
    Register("matvec/q4_1/576x1536" + suffix, BenchMatVec, q4, int64_t{576}, int64_t{1536}, threads,
             kModelBytes);
  }
#if defined(__x86_64__)
  for (int threads : {1, 2}) {
    Register("peak/vpdpbusd/threads:" + std::to_string(threads), BenchPeak, threads);
  }
#endif
  for (const WeightCodecInfo* codec : WeightCodecs()) {
    Register("matmul/" + std::string(codec->id) + "/1536x1536/tokens:512", BenchMatMul, codec,
             int64_t{1536}, int64_t{1536}, 512, 1);
    Register("matmul/" + std::string(codec->id) + "/2048x8192/tokens:512", BenchMatMul, codec,
             int64_t{2048}, int64_t{8192}, 512, 1);
  }
  const WeightCodecInfo* q4 = FindWeightCodec(DType::kQ4_1);
  for (int64_t n_cols : {576, 1536, 4096}) {
    Register("matmul/q4_1/1536x" + std::to_string(n_cols) + "/tokens:512", BenchMatMul, q4,
             int64_t{1536}, n_cols, 512, 1);
  }
  for (int n_tokens : {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 64, 128}) {
    Register("matmul/q4_1/1536x576/tokens:" + std::to_string(n_tokens), BenchMatMul, q4,
             int64_t{1536}, int64_t{576}, n_tokens, 1);
  }
  for (auto [m, n, k] : {std::array<int, 3>{16, 128, 64},
                         {128, 64, 128},
                         {128, 128, 64},
                         {512, 128, 64},
                         {512, 64, 128},
                         {512, 128, 128}}) {
    Register("gemm/" + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k),
             BenchGemm, m, n, k);
  }
}

}  // namespace
}  // namespace phasor

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  phasor::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
