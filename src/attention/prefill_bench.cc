// Time of one layer's prefill attention: a chunk of new tokens over a cache that is filled to a
// depth, per cache type and precision. items_per_second counts pairs of a query row and a token.
#include <benchmark/benchmark.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "base/rng.h"
#include "registry/kv_codec_table.h"

namespace phasor {
namespace {

struct Shape {
  const char* name;
  int n_heads, n_kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{"135M", 9, 3, 64}, {"1B", 32, 8, 64}, {"8B", 32, 8, 128}};
struct Types {
  const char* key;
  const char* value;
};
constexpr Types kTypes[] = {{"f16", "f16"}, {"q8_0", "q8_0"}, {"polar", "q4_head"}};
constexpr int kChunk = 512;

std::unique_ptr<KvCache> FilledCache(const Shape& shape, const Types& types, int depth,
                                     std::vector<float>* rows, ThreadPool& pool) {
  std::vector<KvHeadCodecs> codecs;
  const int D = shape.head_dim;
  for (int h = 0; h < shape.n_kv_heads; ++h) {
    const KvCodecParams k{.head_dim = D, .n_rot = D, .role = KvRole::kKey, .kv_head = h};
    const KvCodecParams v{.head_dim = D, .n_rot = D, .role = KvRole::kValue, .kv_head = h};
    KvHeadCodecs c;
    c.key = MakeKvCodec(types.key, k).value();
    c.value = MakeKvCodec(types.value, v).value();
    c.key_rows = MakeRowKvCodec("f16", k).value();
    c.value_rows = MakeRowKvCodec("f16", v).value();
    codecs.push_back(std::move(c));
  }
  auto cache = std::make_unique<KvCache>(
      KvCacheOptions{.n_layers = 1, .n_kv_heads = shape.n_kv_heads, .head_dim = D},
      std::move(codecs));
  for (int done = 0; done <= depth; done += kChunk) {
    if (!cache->Reserve(kChunk).ok()) return nullptr;
    for (int h = 0; h < shape.n_kv_heads; ++h) {
      std::vector<float> k = *rows, v = *rows;
      cache->AppendHead(0, h, k.data(), v.data(), kChunk);
    }
    if (done == depth) break;  // the chunk whose attention is timed
    cache->CommitAppend(kChunk);
    cache->Freeze(pool);
  }
  return cache;
}

void BenchPrefill(benchmark::State& state, Shape shape, Types types, MatMulPrecision precision,
                  int depth) {
  Rng rng(1);
  const int D = shape.head_dim;
  std::vector<float> rows(static_cast<std::size_t>(kChunk) * D);
  for (float& x : rows) x = static_cast<float>(rng.Normal());
  ThreadPool pool(1);
  auto cache = FilledCache(shape, types, depth, &rows, pool);
  if (cache == nullptr) return state.SkipWithError("no memory for the cache");
  std::vector<float> q(static_cast<std::size_t>(kChunk) * shape.n_heads * D), out(q.size());
  for (float& x : q) x = static_cast<float>(rng.Normal());
  AttentionScratch scratch;
  const AttentionShape attention{
      shape.n_heads, shape.n_kv_heads, D, 1.0f / std::sqrt(static_cast<float>(D)), 0, precision};
  for (auto _ : state) {
    std::vector<float> queries = q;
    Attend(attention, *cache, 0, kChunk, queries.data(), out.data(), scratch, pool);
    benchmark::DoNotOptimize(out.data());
  }
  const double pairs = static_cast<double>(shape.n_heads) * kChunk * (depth + (kChunk + 1) / 2.0);
  state.SetItemsProcessed(static_cast<int64_t>(pairs * static_cast<double>(state.iterations())));
}

void Register() {
  for (const Shape& shape : kShapes) {
    for (int depth : {0, 4096, 16384}) {
      for (const Types& types : kTypes) {
        for (MatMulPrecision precision : {MatMulPrecision::kF32, MatMulPrecision::kInt8}) {
          const std::string name = std::string("prefill/") + shape.name + "/" + types.key + "/" +
                                   (precision == MatMulPrecision::kF32 ? "float" : "int16") +
                                   "/depth:" + std::to_string(depth);
          benchmark::RegisterBenchmark(name.c_str(), BenchPrefill, shape, types, precision, depth)
              ->Unit(benchmark::kMillisecond);
        }
      }
    }
  }
}

}  // namespace
}  // namespace phasor

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  phasor::Register();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
