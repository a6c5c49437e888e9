#include "bench/score_time.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/aligned.h"
#include "base/rng.h"
#include "model/calibration.h"
#include "registry/kv_codec_table.h"

namespace phasor::bench {
namespace {

constexpr int kDistinctPages = 16;

struct Subject {
  std::unique_ptr<KvCodec> codec;
  std::size_t stride = 0;  // from page to page
  AlignedBuffer<std::byte> pages, prepared;
  std::vector<double> cached, streamed;
};

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

Result<Subject> MakeSubject(const std::string& id, const ScoreTimeOptions& o, int64_t n_pages) {
  KvCodecParams params;
  params.head_dim = params.n_rot = o.head_dim;
  const KvCodecInfo* info = FindKvCodec(id);
  std::vector<float> omega_P;
  for (int j = 0; j < o.head_dim / 2; ++j) {
    omega_P.push_back(
        std::pow(10000.0f, -2.0f * static_cast<float>(j) / static_cast<float>(o.head_dim)));
  }
  params.omega_P = omega_P;
  if (info != nullptr && o.calibration != nullptr) {
    params.classes = o.calibration->Classes(id, o.calibrated_layer, 0);
  }
  Subject s;
  PHASOR_ASSIGN_OR_RETURN(s.codec, MakeKvCodec(id, params));
  const std::size_t page_bytes = s.codec->PageBytes();
  s.stride = (page_bytes + 63) / 64 * 64;  // pages are 64-byte aligned, as in the cache
  s.pages.Resize(static_cast<std::size_t>(n_pages) * s.stride);
  Rng rng(1);
  std::vector<float> rows(static_cast<std::size_t>(std::max(kPageTokens, o.group)) * o.head_dim);
  for (int64_t p = 0; p < n_pages; ++p) {
    std::byte* page = s.pages.data() + static_cast<std::size_t>(p) * s.stride;
    if (p < kDistinctPages) {
      for (float& v : rows) v = static_cast<float>(rng.Normal());
      s.codec->EncodePage(rows.data(), kPageTokens, page);
    } else {  // what the codes are makes no difference to the time, where they lie does
      std::memcpy(page, s.pages.data() + static_cast<std::size_t>(p % kDistinctPages) * s.stride,
                  page_bytes);
    }
  }
  s.prepared.Resize(s.codec->PreparedQueryBytes(o.group));
  s.codec->PrepareQuery(rows.data(), o.group, s.prepared.data());
  return s;
}

// ns per token of scoring pages [0, n_pages), n_repeats times over.
double TimePasses(const Subject& s, int group, int64_t n_pages, int n_repeats, float* score) {
  const auto start = std::chrono::steady_clock::now();
  for (int r = 0; r < n_repeats; ++r) {
    for (int64_t p = 0; p < n_pages; ++p) {
      s.codec->ScorePage(s.prepared.data(), group,
                         s.pages.data() + static_cast<std::size_t>(p) * s.stride, kPageTokens,
                         score);
    }
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  return took.count() / (static_cast<double>(n_pages) * n_repeats * kPageTokens);
}

}  // namespace

Result<std::vector<ScoreTime>> MeasureScoreTime(const ScoreTimeOptions& o) {
  KvCodecParams params;
  params.head_dim = params.n_rot = o.head_dim;
  PHASOR_ASSIGN_OR_RETURN(auto first, MakeKvCodec(o.ids.at(0), params));
  const int64_t n_cached = std::max<int64_t>(1, o.cached_tokens / kPageTokens);
  const int64_t n_stream =
      std::max<int64_t>(n_cached, o.stream_bytes / static_cast<int64_t>(first->PageBytes()));
  std::vector<Subject> subjects;
  for (const std::string& id : o.ids) {
    PHASOR_ASSIGN_OR_RETURN(Subject s, MakeSubject(id, o, n_stream));
    subjects.push_back(std::move(s));
  }
  std::vector<float> score(static_cast<std::size_t>(o.group) * kPageTokens);
  // A pass over what fits the cache is short: as many as touch 64 Ki tokens.
  const int repeats = static_cast<int>(std::max<int64_t>(1, 65536 / (n_cached * kPageTokens)));
  for (int round = 0; round < o.n_rounds; ++round) {
    for (Subject& s : subjects) {
      TimePasses(s, o.group, n_cached, 1, score.data());  // brings the codes into the cache
      s.cached.push_back(TimePasses(s, o.group, n_cached, repeats, score.data()));
      s.streamed.push_back(TimePasses(s, o.group, n_stream, 1, score.data()));
    }
  }
  std::vector<ScoreTime> out;
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    const double elements = static_cast<double>(kPageTokens) * o.head_dim;
    out.push_back({o.ids[i], static_cast<double>(subjects[i].codec->PageBytes()) * 8 / elements,
                   Median(subjects[i].cached), Median(subjects[i].streamed)});
  }
  return out;
}

}  // namespace phasor::bench
