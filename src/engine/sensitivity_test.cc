#include "engine/sensitivity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "engine/calibrate.h"
#include "engine/recall_text.h"
#include "registry/kv_codec_table.h"

namespace phasor {
namespace {

Result<std::unique_ptr<LoadedModel>> SmallModel() {
  return LoadedModel::Load({.path = PHASOR_SOURCE_DIR "/tests/golden/models/llama_quantized.gguf",
                            .n_threads = 2,
                            .precision = MatMulPrecision::kF32,
                            .calibration_path = "",
                            .on_progress = {}});
}

// 4,000 words of five letters in sentences of nine.
std::string Book() {
  std::string text;
  for (int i = 0; i < 4000; ++i) {
    for (int shift = 0; shift < 15; shift += 3)
      text += static_cast<char>('a' + (i * 37 >> shift) % 8);
    text += i % 9 == 8 ? ". " : " ";
  }
  return text;
}

constexpr RecallTextOptions kSmall = {
    .n_context = 400, .spacing = 16, .n_listed = 4, .n_sentences = 2, .n_lines = 3, .n_prose = 16};

TEST(RecallText, CountedTokensAreTheNumbersOfFactsInTheContext) {
  const auto model = SmallModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const Tokenizer& tokenizer = (*model)->tokenizer();
  const auto made = MakeRecallText(tokenizer, Book(), kSmall);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ(made->n_context, 400);
  auto text_of = [&](int64_t begin, int64_t end) {
    std::string text;
    for (int64_t i = begin; i < end; ++i) text += tokenizer.TokenBytes(made->tokens[i], false);
    return text;
  };
  const std::string context = text_of(0, made->n_context);
  EXPECT_EQ(made->prose.front(), made->n_context);
  EXPECT_EQ(made->prose.back(), made->n_context + 16 - 2);
  EXPECT_GT(made->recall.front(), made->prose.back());
  EXPECT_LT(made->recall.back() + 1, static_cast<int64_t>(made->tokens.size()));
  // What is counted are the numbers, and nothing else; each stands behind its key in the context.
  std::string counted;
  for (const int64_t i : made->recall) counted += tokenizer.TokenBytes(made->tokens[i + 1], false);
  EXPECT_EQ(std::count(counted.begin(), counted.end(), ' '), 2 + 3);
  EXPECT_EQ(counted.find_first_not_of("0123456789 "), std::string::npos);
  const std::string repeated =
      text_of(made->prose.back() + 2, static_cast<int64_t>(made->tokens.size()));
  constexpr const char* kBetween = ".\n ";
  int n_facts = 0;
  for (std::size_t begin = repeated.find_first_not_of(kBetween); begin != std::string::npos;
       ++n_facts) {
    const std::size_t end = std::min(repeated.find_first_of(".\n", begin), repeated.size());
    const std::string fact = repeated.substr(begin, end - begin);
    EXPECT_NE(context.find(fact), std::string::npos) << fact;
    begin = repeated.find_first_not_of(kBetween, end);
  }
  EXPECT_EQ(n_facts, 2 + 3);
}

TEST(RecallText, TooLittleTextIsRefused) {
  const auto model = SmallModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const Tokenizer& tokenizer = (*model)->tokenizer();
  EXPECT_FALSE(MakeRecallText(tokenizer, "few words here", kSmall).ok());
  EXPECT_FALSE(MakeRecallText(tokenizer, Book().substr(0, 250), kSmall).ok());
  RecallTextOptions tight = kSmall;
  tight.n_context = 200;
  EXPECT_FALSE(MakeRecallText(tokenizer, Book(), tight).ok());
}

TEST(Sensitivity, SixteenBitsLoseNothingAndCodesDo) {
  const auto model = SmallModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto text = MakeRecallText((*model)->tokenizer(), Book(), kSmall);
  ASSERT_TRUE(text.ok()) << text.status().message();
  const auto meter = SensitivityMeter::Make(**model, *text, nullptr, nullptr);
  ASSERT_TRUE(meter.ok()) << meter.status().message();
  const ModelConfig& c = (*model)->config();
  EXPECT_EQ((*meter)->values(0, 0).size(), static_cast<std::size_t>(400 * c.head_dim));
  auto measure = [&](const std::vector<std::string>& ids) {
    std::vector<HeadCodec> changed;
    for (const std::string& id : ids) {
      KvCodecParams params;
      params.head_dim = c.head_dim;
      params.role = KvRole::kValue;
      auto codec = MakeKvCodec(id, params);
      EXPECT_TRUE(codec.ok()) << id;
      changed.push_back({0, static_cast<int>(changed.size()), KvRole::kValue, std::move(*codec)});
    }
    const auto loss = (*meter)->Measure(std::move(changed));
    EXPECT_TRUE(loss.ok()) << loss.status().message();
    return *loss;
  };
  for (const auto& exact : {measure({}), measure({"f16"})}) {
    EXPECT_EQ(exact.recall, 0);
    EXPECT_EQ(exact.prose, 0);
  }
  const HeadLoss four = measure({"q4_head"}), three = measure({"q3_head"});
  EXPECT_GT(four.recall + four.prose, 0);
  EXPECT_GT(three.recall + three.prose, 2 * (four.recall + four.prose));  // errors: 4 times
}

TEST(Sensitivity, CalibrationByLossKeepsTheBudgetOfBothSides) {
  const auto model = SmallModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto text = MakeRecallText((*model)->tokenizer(), Book(), kSmall);
  ASSERT_TRUE(text.ok()) << text.status().message();
  HeadLosses losses;
  const auto made = CalibrateByLoss(**model, *text, {}, &losses);
  ASSERT_TRUE(made.ok()) << made.status().message();
  const ModelConfig& c = (*model)->config();
  const auto n_heads = static_cast<std::size_t>(c.n_layers) * c.n_kv_heads;
  EXPECT_EQ(losses.keys.size(), n_heads);
  EXPECT_EQ(losses.values.size(), n_heads);
  ASSERT_EQ(made->sets.size(), 5u);
  for (const auto& [key, value, bits] :
       {std::tuple("frame4", "q4_head", 3.95), std::tuple("frame3", "q3_head", 2.945)}) {
    const CalibrationSet *k = made->Find(key), *v = made->Find(value);
    ASSERT_TRUE(k != nullptr && v != nullptr);
    double sum = 0;
    for (const uint8_t w : k->classes) sum += w / static_cast<double>(c.head_dim);
    for (const uint8_t w : v->classes) sum += w;
    EXPECT_LE(sum / static_cast<double>(2 * n_heads), bits + 1e-9) << key;
    EXPECT_EQ(v->classes.size(), n_heads);
  }
}

TEST(Sensitivity, WidthsOfAnotherCalibrationAreKept) {
  const auto model = SmallModel();
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto text = MakeRecallText((*model)->tokenizer(), Book(), kSmall);
  ASSERT_TRUE(text.ok()) << text.status().message();
  auto widths = Calibrate(**model, text->tokens, {});
  ASSERT_TRUE(widths.ok()) << widths.status().message();
  widths->sets.pop_back();
  widths->sets[0].classes[3] = 7;
  const auto made = CalibrateAround(**model, text->tokens, {}, *widths);
  ASSERT_TRUE(made.ok()) << made.status().message();
  ASSERT_EQ(made->sets.size(), widths->sets.size());
  for (std::size_t i = 0; i < made->sets.size(); ++i) {
    EXPECT_EQ(made->sets[i].codec, widths->sets[i].codec);
    EXPECT_EQ(made->sets[i].classes, widths->sets[i].classes);
  }
  const ModelConfig& c = (*model)->config();
  EXPECT_EQ(made->QueryMoments(0, 0).size(), static_cast<std::size_t>(c.head_dim * c.head_dim));
  EXPECT_FALSE(made->ValueDirections(0, 0).factor_N.empty());
  widths->fingerprint = "0123456789abcdef";  // another model's
  EXPECT_EQ(CalibrateAround(**model, text->tokens, {}, *widths).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace phasor
