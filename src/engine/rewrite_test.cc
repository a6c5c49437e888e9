#include "engine/rewrite.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace phasor {
namespace {

std::vector<int32_t> Apply(const std::vector<int32_t>& before, const std::vector<TextHunk>& hunks) {
  std::vector<int32_t> out;
  int64_t at = 0;
  for (const TextHunk& hunk : hunks) {
    EXPECT_GE(hunk.begin, at);
    out.insert(out.end(), before.begin() + at, before.begin() + hunk.begin);
    out.insert(out.end(), hunk.tokens.begin(), hunk.tokens.end());
    at = hunk.end;
  }
  out.insert(out.end(), before.begin() + at, before.end());
  return out;
}

TEST(DiffTokens, HunksTurnOneTextIntoTheOther) {
  Rng rng(5);
  for (int round = 0; round < 300; ++round) {
    // Few different tokens, so that stretches match by chance.
    std::vector<int32_t> before(rng.Below(60));
    for (int32_t& t : before) t = static_cast<int32_t>(rng.Below(6));
    std::vector<int32_t> after = before;
    for (uint64_t edits = rng.Below(6); edits > 0; --edits) {
      const auto at = static_cast<std::ptrdiff_t>(rng.Below(after.size() + 1));
      const auto n = static_cast<std::ptrdiff_t>(
          rng.Below(std::min<uint64_t>(5, after.size() - static_cast<uint64_t>(at)) + 1));
      after.erase(after.begin() + at, after.begin() + at + n);
      for (uint64_t i = rng.Below(4); i > 0; --i) {
        after.insert(after.begin() + at, static_cast<int32_t>(rng.Below(6)));
      }
    }
    EXPECT_EQ(Apply(before, DiffTokens(before, after)), after);
  }
}

TEST(DiffTokens, EqualTextsHaveNoHunksAndHunksAreSmall) {
  std::vector<int32_t> text(2000);
  for (int i = 0; i < 2000; ++i) text[i] = i;
  EXPECT_TRUE(DiffTokens(text, text).empty());
  std::vector<int32_t> edited = text;
  edited.erase(edited.begin() + 100, edited.begin() + 110);
  edited.insert(edited.begin() + 1500, {7, 7, 7});
  const std::vector<TextHunk> hunks = DiffTokens(text, edited);
  ASSERT_EQ(hunks.size(), 2u);
  EXPECT_EQ(hunks[0].begin, 100);
  EXPECT_EQ(hunks[0].end, 110);
  EXPECT_TRUE(hunks[0].tokens.empty());
  EXPECT_EQ(hunks[1].begin, 1510);
  EXPECT_EQ(hunks[1].tokens, (std::vector<int32_t>{7, 7, 7}));
  EXPECT_EQ(DiffTokens({}, text).size(), 1u);
  EXPECT_EQ(DiffTokens(text, {}).size(), 1u);
}

}  // namespace
}  // namespace phasor
