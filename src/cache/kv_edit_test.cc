// Editing a cache: the ledger against a plain list of tokens, and attention over edited text
// against attention over keys that were turned for the places where they now stand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "attention/attention.h"
#include "base/rng.h"
#include "cache/compact_tail.h"
#include "cache/kv_cache.h"
#include "ops/vector_ops.h"
#include "registry/kv_codec_table.h"

namespace phasor {
namespace {

std::vector<KvHeadCodecs> MakeCodecs(const char* type_k, const char* type_v, int D, int n_rot,
                                     int n_heads) {
  std::vector<KvHeadCodecs> codecs;
  const bool exact = std::string(type_k) == "f32";
  for (int h = 0; h < n_heads; ++h) {
    KvCodecParams k{.head_dim = D, .n_rot = n_rot, .role = KvRole::kKey, .kv_head = h};
    KvCodecParams v{.head_dim = D, .n_rot = n_rot, .role = KvRole::kValue, .kv_head = h};
    KvHeadCodecs c;
    c.key = MakeKvCodec(type_k, k).value();
    c.value = MakeKvCodec(type_v, v).value();
    c.key_rows = MakeRowKvCodec(exact ? "f32" : "f16", k).value();
    c.value_rows = MakeRowKvCodec(exact ? "f32" : "f16", v).value();
    codecs.push_back(std::move(c));
  }
  return codecs;
}

// What a text is, without any cache: tokens in order, each with its number and its place.
struct Token {
  int64_t uid;
  PositionTicks position;
  bool operator==(const Token&) const = default;
};

// A cache of one head of one dimension whose keys carry the number of their token, beside a plain
// list of the same tokens.
class Twin {
 public:
  static constexpr int kDim = 1;

  Twin() : cache_(std::make_unique<KvCache>(Options(), MakeCodecs("f32", "f32", kDim, 0, 1))) {}
  Twin(const Twin& o)
      : cache_(o.cache_->Fork()), list_(o.list_), next_(o.next_), next_uid_(o.next_uid_) {}

  static KvCacheOptions Options() {
    return {.n_layers = 1, .n_kv_heads = 1, .head_dim = kDim, .n_sink = 4, .n_recent = 16};
  }

  void Append(int n, PositionTicks step, ThreadPool& pool) {
    std::vector<PositionTicks> positions;
    for (int t = 0; t < n; ++t) positions.push_back(next_ + t * step);
    ASSERT_TRUE(cache_->Reserve(n, positions).ok());
    std::vector<float> k, v;
    for (int t = 0; t < n; ++t) {
      list_.push_back({next_uid_++, positions[t]});
      k.push_back(static_cast<float>(list_.back().uid));
      v.push_back(-k.back());
    }
    cache_->AppendHead(0, 0, k.data(), v.data(), n);
    cache_->CommitAppend(n);
    cache_->Freeze(pool);
    next_ = positions.back() + kTicksPerPosition;
  }

  PositionTicks At(int64_t i) const {
    return i < static_cast<int64_t>(list_.size()) ? list_[i].position : next_;
  }

  void Erase(int64_t a, int64_t b) {
    ASSERT_TRUE(cache_->Erase(a, b).ok());
    const PositionTicks gap = At(b) - At(a);
    list_.erase(list_.begin() + a, list_.begin() + b);
    ShiftFrom(a, -gap);
    if (list_.empty()) next_ = 0;
  }

  void Copy(int64_t a, int64_t b, int64_t to) {
    ASSERT_TRUE(cache_->Copy(a, b, to).ok());
    if (a == b) return;
    const PositionTicks room = At(b) - At(a), by = At(to) - At(a);
    std::vector<Token> part(list_.begin() + a, list_.begin() + b);
    for (Token& t : part) t.position += by;
    ShiftFrom(to, room);
    list_.insert(list_.begin() + to, part.begin(), part.end());
  }

  void Move(int64_t a, int64_t b, int64_t to) {
    ASSERT_TRUE(cache_->Move(a, b, to).ok());
    const int64_t first = std::min(a, to), last = std::max(b, to), middle = to < a ? a : b;
    const PositionTicks left = At(middle) - At(first), right = At(last) - At(middle);
    for (int64_t i = first; i < last; ++i) list_[i].position += i < middle ? right : -left;
    std::rotate(list_.begin() + first, list_.begin() + middle, list_.begin() + last);
  }

  void Truncate(int64_t n) {
    ASSERT_TRUE(cache_->Truncate(n).ok());
    next_ = n == 0 ? 0 : At(n);
    list_.resize(n);
  }

  // Positions and contents, token by token.
  void Check() const {
    ASSERT_EQ(cache_->n_tokens(), static_cast<int64_t>(list_.size()));
    ASSERT_EQ(cache_->next_position(), next_);
    std::vector<KvSegment> segments;
    cache_->Segments(0, 0, 0, &segments);
    std::size_t i = 0;
    ASSERT_EQ(segments.size(), cache_->pieces().size());
    for (std::size_t p = 0; p < segments.size(); ++p) {
      const KvSegment& s = segments[p];
      const KvPiece& piece = cache_->pieces()[p];
      float rows[kPageTokens * kDim];
      s.key_codec->DecodePage(s.key_page, s.first_row + s.n_tokens, rows);
      const PositionTicks* at = cache_->store()->positions(piece.kind, piece.block);
      for (int t = 0; t < s.n_tokens; ++t, ++i) {
        ASSERT_EQ(static_cast<int64_t>(rows[s.first_row + t]), list_[i].uid);
        ASSERT_EQ(at[s.first_row + t] + piece.view.shift, list_[i].position);
        ASSERT_EQ(cache_->turn(s.view).view, piece.view);
      }
    }
    ASSERT_EQ(i, list_.size());
  }

  int64_t size() const { return static_cast<int64_t>(list_.size()); }
  KvCache& cache() { return *cache_; }

 private:
  void ShiftFrom(int64_t i, PositionTicks by) {
    for (; i < size(); ++i) list_[i].position += by;
    next_ += by;
  }

  std::unique_ptr<KvCache> cache_;
  std::vector<Token> list_;
  PositionTicks next_ = 0;
  int64_t next_uid_ = 0;
};

// One random operation. Texts stay below about 700 tokens.
void RandomStep(Rng& rng, ThreadPool& pool, Twin* twin) {
  const int64_t n = twin->size();
  const auto a = static_cast<int64_t>(rng.Below(n + 1)), b = static_cast<int64_t>(rng.Below(n + 1));
  const int64_t first = std::min(a, b), last = std::min(std::max(a, b), first + 60);
  switch (rng.Below(n > 600 ? 4 : 7)) {
    case 0:
    case 1:
      return twin->Erase(first, last);
    case 2:
      return twin->Truncate(n - static_cast<int64_t>(rng.Below(std::min<int64_t>(n, 40) + 1)));
    case 3: {
      const auto to = static_cast<int64_t>(rng.Below(n + 1));
      return twin->Move(first, last, first < to && to < last ? first : to);
    }
    case 4:
      return twin->Copy(first, std::min(last, first + 20), static_cast<int64_t>(rng.Below(n + 1)));
    default: {
      // Whole positions, shared ones, and fractions of one.
      constexpr PositionTicks kSteps[] = {kTicksPerPosition, 0, kTicksPerPosition / 256};
      const PositionTicks step = rng.Below(4) > 0 ? kTicksPerPosition : kSteps[rng.Below(3)];
      return twin->Append(1 + static_cast<int>(rng.Below(40)), step, pool);
    }
  }
}

TEST(KvEdit, AMillionRandomOperationsEqualAPlainListOfTokens) {
  ThreadPool pool(1);
  Rng rng(20261126);
  Twin twin;
  for (int i = 0; i < 1000000; ++i) {
    RandomStep(rng, pool, &twin);
    if (i % 500 == 0) twin.Check();
    if (::testing::Test::HasFatalFailure()) FAIL() << "after operation " << i;
  }
  twin.Check();
  // Every block that no piece holds was given back.
  twin.cache().Clear();
  EXPECT_EQ(twin.cache().store()->n_blocks_in_use(KvBlockKind::kRows), 0);
  EXPECT_EQ(twin.cache().store()->n_blocks_in_use(KvBlockKind::kCodes), 0);
}

TEST(KvEdit, ForksShareBlocksAndNeverSeeEachOthersWrites) {
  ThreadPool pool(1);
  Rng rng(7);
  auto twin = std::make_unique<Twin>();
  twin->Append(300, kTicksPerPosition, pool);
  std::vector<std::unique_ptr<Twin>> forks;
  for (int i = 0; i < 8; ++i) forks.push_back(std::make_unique<Twin>(*twin));
  const int blocks = twin->cache().store()->n_blocks_in_use(KvBlockKind::kRows) +
                     twin->cache().store()->n_blocks_in_use(KvBlockKind::kCodes);
  EXPECT_EQ(blocks, static_cast<int>(twin->cache().pieces().size()));
  for (int i = 0; i < 2000; ++i) {
    RandomStep(rng, pool, forks[rng.Below(forks.size())].get());
    if (i % 20 == 0) {
      for (const auto& fork : forks) fork->Check();
    }
    ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "after operation " << i;
  }
  twin->Check();
  std::shared_ptr<KvStore> store = twin->cache().store();
  forks.clear();
  twin.reset();
  EXPECT_EQ(store->n_blocks_in_use(KvBlockKind::kRows), 0);
  EXPECT_EQ(store->n_blocks_in_use(KvBlockKind::kCodes), 0);
}

TEST(KvEdit, OneOfSeveralForksGoesOnInTheBlockTheyShare) {
  ThreadPool pool(1);
  Twin twin;
  twin.Append(40, kTicksPerPosition, pool);  // 4 in the sink's block, 36 behind
  KvStore& store = *twin.cache().store();
  Twin a(twin), b(twin);
  const int before = store.n_blocks_in_use(KvBlockKind::kRows);
  a.Append(1, kTicksPerPosition, pool);
  EXPECT_EQ(store.n_blocks_in_use(KvBlockKind::kRows), before);
  b.Append(1, kTicksPerPosition, pool);
  EXPECT_EQ(store.n_blocks_in_use(KvBlockKind::kRows), before + 1);
  a.Append(5, kTicksPerPosition, pool);
  b.Append(5, kTicksPerPosition, pool);
  twin.Append(3, kTicksPerPosition, pool);
  EXPECT_EQ(store.n_blocks_in_use(KvBlockKind::kRows), before + 2);
  // What was reserved and not written is free for the next.
  Twin c(a), d(a);
  ASSERT_TRUE(c.cache().Reserve(2).ok());
  ASSERT_TRUE(c.cache().Truncate(c.size()).ok());
  d.Append(2, kTicksPerPosition, pool);
  c.Append(2, kTicksPerPosition, pool);
  EXPECT_EQ(store.n_blocks_in_use(KvBlockKind::kRows), before + 3);
  for (const Twin* t : {&twin, &a, &b, &c, &d}) t->Check();
}

TEST(KvEdit, RowsThatForksScatteredAreJoinedAndNothingElseChanges) {
  ThreadPool pool(2);
  Rng rng(9);
  Twin twin;
  twin.Append(60, kTicksPerPosition, pool);
  std::vector<std::unique_ptr<Twin>> old;
  for (int i = 0; i < 300; ++i) {
    // The text goes on in a fork whose block somebody else grows as well.
    old.push_back(std::make_unique<Twin>(twin));
    old.back()->Append(1, kTicksPerPosition, pool);
    twin.Append(1 + static_cast<int>(rng.Below(2)), kTicksPerPosition / 2, pool);
    ASSERT_TRUE(CompactTail(5, &twin.cache(), pool).ok());
    if (i % 10 == 0) twin.Check();
    ASSERT_FALSE(::testing::Test::HasFatalFailure()) << i;
  }
  for (const auto& t : old) t->Check();
  std::shared_ptr<KvStore> store = twin.cache().store();
  old.clear();
  EXPECT_EQ(
      store->n_blocks_in_use(KvBlockKind::kRows) + store->n_blocks_in_use(KvBlockKind::kCodes),
      static_cast<int>(twin.cache().pieces().size()));
  // Pinned rows stay pinned.
  const int64_t n = twin.size();
  ASSERT_TRUE(twin.cache().Pin(n - 3, n).ok());
  ASSERT_TRUE(CompactTail(1, &twin.cache(), pool).ok());
  EXPECT_TRUE(twin.cache().AnyPinned(n - 1, n));
  EXPECT_FALSE(twin.cache().AnyPinned(0, n - 3));
  twin.Check();
}

TEST(KvEdit, OneSpanShiftedAHundredThousandTimesStandsWhereItBegan) {
  ThreadPool pool(1);
  Twin twin;
  twin.Append(200, kTicksPerPosition, pool);
  for (int i = 0; i < 100000; ++i) {
    // Tokens [50, 90) to the end and back.
    ASSERT_TRUE(twin.cache().Move(50, 90, 200).ok());
    ASSERT_TRUE(twin.cache().Move(160, 200, 50).ok());
  }
  twin.Check();
  EXPECT_LE(twin.cache().pieces().size(), 8u);
}

TEST(KvEdit, WrongPlacesAreRefusedAndChangeNothing) {
  ThreadPool pool(1);
  Twin twin, other;
  twin.Append(300, kTicksPerPosition, pool);
  other.Append(10, kTicksPerPosition, pool);
  KvCache& c = twin.cache();
  EXPECT_EQ(c.Erase(-1, 5).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(c.Erase(5, 4).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(c.Erase(0, 301).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(c.Truncate(301).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(c.Slice(300, 302).status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(c.Move(10, 20, 15).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(c.Copy(10, 20, 302).code(), StatusCode::kOutOfRange);
  const KvSpan foreign = other.cache().Slice(0, 10).value();
  EXPECT_EQ(c.Attach(foreign).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(c.Insert(3, foreign).code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(c.Pin(100, 110).ok());
  EXPECT_EQ(c.Erase(90, 101).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(c.Truncate(105).code(), StatusCode::kInvalidArgument);
  twin.Check();
  ASSERT_TRUE(c.Pin(100, 110, false).ok());
  EXPECT_TRUE(c.Truncate(105).ok());
}

TEST(KvEdit, OnlyWhatFollowsAnEditIsStale) {
  ThreadPool pool(1);
  Twin twin;
  twin.Append(300, kTicksPerPosition, pool);
  EXPECT_EQ(twin.cache().n_stale_tokens(), 0);
  twin.Erase(295, 300);
  EXPECT_EQ(twin.cache().n_stale_tokens(), 0);
  twin.Erase(100, 110);
  EXPECT_EQ(twin.cache().n_stale_tokens(), 185);
  twin.Append(7, kTicksPerPosition, pool);
  EXPECT_EQ(twin.cache().n_stale_tokens(), 185);
  twin.cache().MarkFresh(100, 285);
  EXPECT_EQ(twin.cache().n_stale_tokens(), 0);
  twin.Check();
}

// --- attention ---

struct Scene {
  static constexpr int kHeads = 4, kKvHeads = 2, kDim = 64;
  AttentionShape shape{kHeads, kKvHeads, kDim, 1.0f / 8, 0};
  PhaseTable table;
  std::unique_ptr<KvCache> cache;
  AttentionScratch scratch;
};

PhaseTable Rope(double base, float factor = 1.0f) {
  PhaseTable table;
  table.attention_factor = factor;
  for (int j = 0; j < Scene::kDim / 2; ++j) {
    const long double omega = std::pow(static_cast<long double>(base), -2.0L * j / Scene::kDim);
    table.step_P.push_back(
        static_cast<uint64_t>(omega / (2 * std::numbers::pi_v<long double>)*0x1.0p64L));
  }
  return table;
}

// Random rows of a token, before RoPE: the same whenever the token is asked for.
std::vector<float> RawRow(int64_t uid, int head, int kind) {
  Rng rng(static_cast<uint64_t>(uid) * 64 + static_cast<uint64_t>(head * 4 + kind));
  std::vector<float> row(Scene::kDim);
  for (float& x : row) x = static_cast<float>(rng.Normal());
  return row;
}

void Turn(const PhaseTable& table, PositionTicks at, std::vector<float>* row) {
  float cos[Scene::kDim / 2], sin[Scene::kDim / 2];
  RopeAnglesAt(table, at, cos, sin);
  ApplyRope(row->data(), 1, Scene::kDim, Scene::kDim, RopePairing::kHalfSplit, cos, sin);
}

// Reads tokens uid, uid + 1, ... and returns attention's result for them, [n, H, D].
std::vector<float> Read(Scene& s, int64_t uid, int n, ThreadPool& pool, bool commit = true) {
  constexpr int D = Scene::kDim;
  EXPECT_TRUE(s.cache->Reserve(n).ok());
  const PhaseTable& table = s.cache->schedule();
  std::vector<float> q_THD;
  for (int t = 0; t < n; ++t) {
    for (int h = 0; h < Scene::kHeads; ++h) {
      std::vector<float> q = RawRow(uid + t, h, 0);
      Turn(table, s.cache->stored_positions()[t], &q);
      q_THD.insert(q_THD.end(), q.begin(), q.end());
    }
  }
  for (int h = 0; h < Scene::kKvHeads; ++h) {
    std::vector<float> k_ND, v_ND;
    for (int t = 0; t < n; ++t) {
      std::vector<float> k = RawRow(uid + t, h, 1);
      const std::vector<float> v = RawRow(uid + t, h, 2);
      Turn(table, s.cache->stored_positions()[t], &k);
      k_ND.insert(k_ND.end(), k.begin(), k.end());
      v_ND.insert(v_ND.end(), v.begin(), v.end());
    }
    s.cache->AppendHead(0, h, k_ND.data(), v_ND.data(), n);
  }
  std::vector<float> out(static_cast<std::size_t>(n) * Scene::kHeads * D);
  Attend(s.shape, *s.cache, 0, n, q_THD.data(), out.data(), s.scratch, pool);
  if (commit) {
    s.cache->CommitAppend(n);
    s.cache->Freeze(pool);
  }
  return out;
}

std::unique_ptr<Scene> MakeScene(const char* k, const char* v, const PhaseTable& table) {
  auto s = std::make_unique<Scene>();
  s->cache = std::make_unique<KvCache>(
      KvCacheOptions{1, Scene::kKvHeads, Scene::kDim, 4, 32, Scene::kDim, RopePairing::kHalfSplit},
      MakeCodecs(k, v, Scene::kDim, Scene::kDim, Scene::kKvHeads));
  s->cache->SetSchedule(table);
  return s;
}

double Worst(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  EXPECT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return worst;
}

// Turning twice instead of once, in float: a few 2^-24 of scores of size 8 and below.
constexpr double kTurnTolerance = 3e-5;

TEST(KvEdit, AttentionOverEditedTextEqualsReadingTheTextInItsNewOrder) {
  // Keys of one layer depend on token and place alone, so edited text must equal text read afresh.
  ThreadPool pool(2);
  for (int n : {1, 4, 40}) {  // decode, its longest block, prefill
    auto edited = MakeScene("f32", "f32", Rope(10000)),
         fresh = MakeScene("f32", "f32", Rope(10000));
    Read(*edited, 0, 400, pool);
    ASSERT_TRUE(edited->cache->Erase(100, 130).ok());
    ASSERT_TRUE(edited->cache->Move(10, 60, 300).ok());
    ASSERT_TRUE(edited->cache->Copy(5, 10, 200).ok());
    // The same order for the other, from the numbers alone.
    std::vector<int64_t> order(400);
    for (int i = 0; i < 400; ++i) order[i] = i;
    order.erase(order.begin() + 100, order.begin() + 130);
    std::rotate(order.begin() + 10, order.begin() + 60, order.begin() + 300);
    const std::vector<int64_t> part(order.begin() + 5, order.begin() + 10);
    order.insert(order.begin() + 200, part.begin(), part.end());
    for (int64_t uid : order) Read(*fresh, uid, 1, pool);
    ASSERT_EQ(edited->cache->n_tokens(), fresh->cache->n_tokens());
    EXPECT_GT(edited->cache->n_turns(), 2);
    EXPECT_LT(Worst(Read(*edited, 5000, n, pool), Read(*fresh, 5000, n, pool)), kTurnTolerance)
        << n;
    // And what is read after that.
    EXPECT_LT(Worst(Read(*edited, 6000, 300, pool), Read(*fresh, 6000, 300, pool)), kTurnTolerance);
    EXPECT_LT(Worst(Read(*edited, 7000, 1, pool), Read(*fresh, 7000, 1, pool)), kTurnTolerance);
  }
}

TEST(KvEdit, CodesStayAsTheyAreWhateverMovesForEveryCodec) {
  ThreadPool pool(2);
  for (const KvCodecInfo& codec : KvCodecs()) {
    const char* k = codec.for_keys ? codec.id : "f16";
    const char* v = codec.for_values ? codec.id : "f16";
    auto s = MakeScene(k, v, Rope(10000));
    Read(*s, 0, 700, pool);
    const std::vector<KvPiece> before = s->cache->pieces();
    const KvSpan keep = s->cache->Slice(0, 700).value();
    std::vector<std::byte> bytes;
    // Rows behind those of a piece may be written later, by whoever grows the block first.
    auto snapshot = [&] {
      std::vector<std::byte> all;
      for (const KvPiece& piece : before) {
        const bool rows = piece.kind == KvBlockKind::kRows;
        const KvStore& store = *s->cache->store();
        const auto add = [&](const std::byte* page, std::size_t size) {
          const std::size_t row = size / kPageTokens;
          const std::byte* first =
              rows ? page + row * static_cast<std::size_t>(piece.first_row) : page;
          all.insert(all.end(), first,
                     first + (rows ? row * static_cast<std::size_t>(piece.n_rows) : size));
        };
        for (int h = 0; h < Scene::kKvHeads; ++h) {
          add(store.KeyPage(piece.kind, piece.block, 0, h), store.KeyBytes(piece.kind, 0, h));
          add(store.ValuePage(piece.kind, piece.block, 0, h), store.ValueBytes(piece.kind, 0, h));
        }
      }
      return all;
    };
    bytes = snapshot();
    Rng rng(3);
    for (int i = 0; i < 60; ++i) {
      const auto a = static_cast<int64_t>(rng.Below(300)),
                 b = a + static_cast<int64_t>(rng.Below(20));
      ASSERT_TRUE(s->cache->Move(a, b, 320 + static_cast<int64_t>(rng.Below(100))).ok());
      ASSERT_TRUE(s->cache->Erase(a, a + 3).ok());
      ASSERT_TRUE(s->cache->Copy(400, 403, a).ok());
      if (i % 10 == 0) Read(*s, 1000 + 40 * i, 33, pool);
    }
    EXPECT_EQ(bytes, snapshot()) << codec.id;
    // Put back in order by its span, the text is read as on the first day. The new token lies in a
    // block of its own there, so that partial sums are merged in another order.
    constexpr double kOrderTolerance = 1e-6;
    auto again = MakeScene(k, v, Rope(10000));
    Read(*again, 0, 700, pool);
    s->cache->Clear();
    ASSERT_TRUE(s->cache->Attach(keep, {.position = {}, .same_left_context = true}).ok());
    EXPECT_LT(Worst(Read(*s, 9000, 1, pool, false), Read(*again, 9000, 1, pool, false)),
              kOrderTolerance)
        << codec.id;
  }
}

TEST(KvEdit, AMovedTextScoresAsItDidBeforeItMovedForEveryCodec) {
  // All text and the query moved by the same distance: differences of positions stay, and so do
  // scores, up to what rounding the turned query costs the kernels.
  ThreadPool pool(1);
  // Kernels round queries to 8 to 12 bits (2^-8 of a score near 8 at the worst head) and weights to
  // 8 bits; contract tests bound each.
  constexpr double kQueryRounding = 0.03;
  for (const KvCodecInfo& codec : KvCodecs()) {
    const char* k = codec.for_keys ? codec.id : "f16";
    const char* v = codec.for_values ? codec.id : "f16";
    const bool exact = std::string(codec.id) == "f32";
    auto here = MakeScene(k, v, Rope(10000)), far = MakeScene(k, v, Rope(10000));
    Read(*here, 0, 500, pool);
    Read(*far, 0, 500, pool);
    const KvSpan text = far->cache->Slice(0, 500).value();
    for (const PositionTicks by : {3 * kTicksPerPosition, 1000000 * kTicksPerPosition,
                                   kTicksPerPosition / 3, -700 * kTicksPerPosition}) {
      far->cache->Clear();
      // Two views: the query's own and that of the text.
      ASSERT_TRUE(far->cache->Attach(text, {.position = by}).ok());
      far->cache->SetNextPosition(500 * kTicksPerPosition + by);
      for (int n : {1, 30}) {
        EXPECT_LT(Worst(Read(*here, 800, n, pool, false), Read(*far, 800, n, pool, false)),
                  exact ? kTurnTolerance : kQueryRounding)
            << codec.id << " by " << by << " n " << n;
      }
    }
  }
}

TEST(KvEdit, SpansOfOtherSchedulesAreScoredByTheirOwn) {
  // Two texts read under different schedules in one cache: each is seen at the distances of its
  // own.
  ThreadPool pool(2);
  const PhaseTable one = Rope(10000), other = Rope(500000, 1.2f);
  for (int n : {1, 3, 20}) {
    auto mixed = MakeScene("f32", "f32", one);
    Read(*mixed, 0, 200, pool);
    mixed->cache->SetSchedule(other);
    Read(*mixed, 200, 100, pool);
    const std::vector<float> out = Read(*mixed, 300, n, pool);
    // By hand, in double.
    double worst = 0;
    constexpr int D = Scene::kDim;
    for (int t = 0; t < n; ++t) {
      for (int h = 0; h < Scene::kHeads; ++h) {
        std::vector<double> scores, sum(D, 0.0);
        double total = 0, top = -1e300;
        for (int64_t i = 0; i <= 300 + t; ++i) {
          const PhaseTable& table = i < 200 ? one : other;
          std::vector<float> q = RawRow(300 + t, h, 0), k = RawRow(i, h / 2, 1);
          Turn(table, (300 + t) * kTicksPerPosition, &q);
          Turn(table, i * kTicksPerPosition, &k);
          double dot = 0;
          for (int d = 0; d < D; ++d) dot += static_cast<double>(q[d]) * k[d] / 8;
          scores.push_back(dot);
          top = std::max(top, dot);
        }
        for (double& x : scores) total += x = std::exp(x - top);
        for (int64_t i = 0; i <= 300 + t; ++i) {
          const std::vector<float> v = RawRow(i, h / 2, 2);
          for (int d = 0; d < D; ++d) sum[d] += scores[i] / total * v[d];
        }
        for (int d = 0; d < D; ++d) {
          worst = std::max(worst, std::abs(sum[d] - out[(t * Scene::kHeads + h) * D + d]));
        }
      }
    }
    EXPECT_LT(worst, 2 * kTurnTolerance) << n;
  }
}

TEST(KvEdit, GroupsAtNeutralScaleEqualNoGroupsAndContextsMayChangePlaces) {
  // APE (2502.05431): contexts read apart at one range of positions.
  ThreadPool pool(2);
  for (int n : {1, 25}) {
    auto plain = MakeScene("f32", "f32", Rope(10000)), apart = MakeScene("f32", "f32", Rope(10000));
    Read(*plain, 0, 40, pool);
    Read(*apart, 0, 40, pool);
    // One context after the prefix: with T = S = 1 the same as reading on.
    Read(*plain, 100, 150, pool);
    Read(*apart, 100, 150, pool);
    const KvSpan context = apart->cache->Slice(40, 190).value();
    ASSERT_TRUE(apart->cache->Truncate(40).ok());
    ASSERT_TRUE(
        apart->cache->Attach(context, {.position = {}, .same_left_context = true, .group = 1})
            .ok());
    ASSERT_TRUE(apart->cache->has_groups());
    EXPECT_LT(Worst(Read(*plain, 500, n, pool, false), Read(*apart, 500, n, pool, false)),
              kTurnTolerance);
    apart->cache->SetGroupScale({.temperature = 0.5f, .scale = 0.9f});
    EXPECT_GT(Worst(Read(*plain, 500, n, pool, false), Read(*apart, 500, n, pool, false)), 1e-3);
    // A second context at the same range, in both orders.
    ASSERT_TRUE(apart->cache->Truncate(40).ok());
    Read(*apart, 700, 120, pool);
    const KvSpan second = apart->cache->Slice(40, 160).value();
    std::vector<float> results[2];
    for (int order = 0; order < 2; ++order) {
      ASSERT_TRUE(apart->cache->Truncate(40).ok());
      for (int i = 0; i < 2; ++i) {
        const KvSpan& span = i == order ? context : second;
        ASSERT_TRUE(apart->cache
                        ->Attach(span, {.position = 40 * kTicksPerPosition,
                                        .same_left_context = true,
                                        .group = 1})
                        .ok());
      }
      apart->cache->SetNextPosition(190 * kTicksPerPosition);
      results[order] = Read(*apart, 500, n, pool, false);
    }
    EXPECT_LT(Worst(results[0], results[1]), kTurnTolerance) << n;
  }
}

TEST(KvEdit, LooseRowsBetweenEditsBecomeCodesWhenThatTakesLessRoom) {
  ThreadPool pool(1);
  auto s = MakeScene("q4_0", "q4_0", Rope(10000));
  Read(*s, 0, 600, pool);
  const KvSpan rest = s->cache->Slice(200, 600).value();
  ASSERT_TRUE(s->cache->Truncate(200).ok());
  Read(*s, 5000, 60, pool);  // written between the two
  ASSERT_TRUE(s->cache->Attach(rest).ok());
  const auto rows = [&] {
    int64_t n = 0;
    for (const KvPiece& p : s->cache->pieces()) n += p.kind == KvBlockKind::kRows ? p.n_rows : 0;
    return n;
  };
  const int64_t before = rows();
  s->cache->Freeze(pool);
  EXPECT_EQ(rows(), before - 60);
  EXPECT_EQ(s->cache->n_tokens(), 660);
}

}  // namespace
}  // namespace phasor
