// The default model against Hugging Face transformers in float32 on the same GGUF
// (scripts/make_golden_default.py): logits, greedy answers, perplexity.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "tests/golden/golden_support.h"
#include "tests/support/default_model.h"

namespace phasor {
namespace {

using ::phasor::testing::ArgMax;
using ::phasor::testing::LogSumExp;
using ::phasor::testing::MaxAbsDifference;
using ::phasor::testing::ReadGoldenFile;
using ::phasor::testing::ReadGoldenJson;

// The bound of issue 3, measured 1.4e-4; the reference itself is 1.1e-4 away from the same model in
// double (float32_noise in default_golden.json).
constexpr double kLogitTolerance = 1e-3;
// Float32 sums over a window of 2,047 tokens: single-token errors near 1e-4 mostly cancel.
constexpr double kF32NllTolerance = 1e-4;
// The bound of issue 3 for 8-bit activations and a 16-bit cache.
constexpr double kInt8PerplexityTolerance = 0.01;

// tests/golden/default_logits.bin; the layout is described in the script that writes it.
struct GoldenPosition {
  float log_sum_exp = 0;
  std::vector<float> probe_logits;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logits;
};

struct GoldenFile {
  std::vector<int32_t> tokens, probe_ids;
  std::vector<GoldenPosition> positions;
  uint32_t n_vocab = 0;
};

class ByteReader {
 public:
  explicit ByteReader(std::string bytes) : bytes_(std::move(bytes)) {}
  template <typename T>
  std::vector<T> Read(std::size_t n) {
    std::vector<T> out(n);
    if (n * sizeof(T) > bytes_.size() - at_) {
      ADD_FAILURE() << "default_logits.bin ends early";
      return out;
    }
    std::memcpy(out.data(), bytes_.data() + at_, n * sizeof(T));
    at_ += n * sizeof(T);
    return out;
  }
  bool AtEnd() const { return at_ == bytes_.size(); }

 private:
  std::string bytes_;
  std::size_t at_ = 0;
};

GoldenFile ReadLogits() {
  ByteReader in(ReadGoldenFile("default_logits.bin"));
  GoldenFile golden;
  const std::vector<char> magic = in.Read<char>(4);
  EXPECT_EQ(std::string(magic.begin(), magic.end()), "PHGL");
  const std::vector<uint32_t> header = in.Read<uint32_t>(5);
  EXPECT_EQ(header[0], 1u);
  golden.n_vocab = header[2];
  golden.tokens = in.Read<int32_t>(header[1]);
  golden.probe_ids = in.Read<int32_t>(header[3]);
  for (uint32_t t = 0; t < header[1]; ++t) {
    GoldenPosition p;
    p.log_sum_exp = in.Read<float>(1)[0];
    p.probe_logits = in.Read<float>(header[3]);
    p.top_ids = in.Read<int32_t>(header[4]);
    p.top_logits = in.Read<float>(header[4]);
    golden.positions.push_back(std::move(p));
  }
  EXPECT_TRUE(in.AtEnd());
  return golden;
}

class DefaultModel : public ::testing::Test {
 protected:
  void Load(MatMulPrecision precision) {
    const auto path = ::phasor::testing::DefaultModelPath();
    if (!path) GTEST_SKIP() << "no default model: run `make run` or scripts/get_model.sh first";
    LoadOptions options;
    options.path = *path;
    options.precision = precision;
    Result<std::unique_ptr<LoadedModel>> model = LoadedModel::Load(options);
    ASSERT_TRUE(model.ok()) << model.status().message();
    model_ = std::move(*model);
  }

  std::unique_ptr<Session> NewSession(const SessionOptions& options) {
    Result<std::unique_ptr<Session>> session = Session::Create(*model_, options);
    if (session.ok()) return std::move(*session);
    ADD_FAILURE() << session.status().message();
    return nullptr;
  }
  std::unique_ptr<Session> NewSession(const std::string& cache_type) {
    SessionOptions options;
    options.n_ctx = 2048;
    options.type_k = options.type_v = cache_type;
    return NewSession(options);
  }

  // Answers one chat question greedily with the model's own template.
  std::string Answer(Session& session, const nlohmann::json& chat, std::vector<int32_t>* tokens) {
    const ChatTemplate* chat_template = model_->chat_template();
    if (chat_template == nullptr) return "no chat template";
    ChatTemplateInputs inputs;
    inputs.messages = {{"user", chat.at("question").get<std::string>()}};
    inputs.bos_token = model_->tokenizer().TokenBytes(model_->tokenizer().bos_id(), false);
    inputs.eos_token = model_->tokenizer().TokenBytes(model_->tokenizer().eos_id(), false);
    const Result<std::string> prompt = chat_template->Render(inputs);
    if (!prompt.ok()) return prompt.status().message();
    EXPECT_EQ(*prompt, chat.at("prompt").get<std::string>());
    const std::vector<int32_t> ids =
        model_->tokenizer().Encode(*prompt, {.add_special = false, .parse_special = true});
    EXPECT_EQ(ids, chat.at("prompt_tokens").get<std::vector<int32_t>>());
    const Status status = session.Append(ids, {});
    if (!status.ok()) return status.message();
    GenerateOptions generate;
    generate.max_tokens = 48;
    generate.sampler.temperature = 0;
    const Result<GenerateResult> result = session.Generate(generate, {});
    if (!result.ok()) return result.status().message();
    if (tokens != nullptr) *tokens = result->tokens;
    return result->text;
  }

  // Sum of -log p over tokens 1..n-1 of one window.
  double WindowNll(Session& session, std::span<const int32_t> ids) {
    session.Clear();
    std::vector<double> nll(ids.size(), NAN);
    AppendOptions options;
    options.on_logits = [&](int64_t i, std::span<const float> logits) {
      const auto next = static_cast<std::size_t>(i) + 1;
      if (next < ids.size()) nll[i] = LogSumExp(logits) - logits[ids[next]];
    };
    options.concurrent_logits = true;  // each index writes its own element
    const Status status = session.Append(ids, options);
    EXPECT_TRUE(status.ok()) << status.message();
    double sum = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) sum += nll[i];
    return sum;
  }

  std::vector<int32_t> LongText(const nlohmann::json& expected) {
    std::vector<int32_t> ids =
        model_->tokenizer().Encode(ReadGoldenFile(expected.at("file")), {.parse_special = false});
    EXPECT_EQ(ids.size(), expected.at("n_tokens").get<std::size_t>());
    return ids;
  }

  // Perplexity of the whole long text, window by window.
  double Perplexity(Session& session, const nlohmann::json& expected) {
    const std::vector<int32_t> ids = LongText(expected);
    const std::size_t window = expected.at("window");
    double nll = 0;
    for (std::size_t at = 0; at + window <= ids.size(); at += window) {
      nll += WindowNll(session, std::span(ids).subspan(at, window));
    }
    return std::exp(nll / expected.at("n_scored").get<double>());
  }

  std::unique_ptr<LoadedModel> model_;
};

#define PHASOR_LOAD_OR_RETURN(precision) \
  Load(precision);                       \
  if (IsSkipped() || HasFatalFailure()) return

// Compares one position; raises *worst to its largest difference.
void ExpectPosition(std::span<const float> logits, const GoldenFile& golden, std::size_t t,
                    double* worst) {
  const GoldenPosition& p = golden.positions[t];
  ASSERT_EQ(logits.size(), golden.n_vocab);
  std::vector<float> found{static_cast<float>(LogSumExp(logits))}, expected{p.log_sum_exp};
  for (int32_t id : golden.probe_ids) found.push_back(logits[id]);
  expected.insert(expected.end(), p.probe_logits.begin(), p.probe_logits.end());
  for (int32_t id : p.top_ids) found.push_back(logits[id]);
  expected.insert(expected.end(), p.top_logits.begin(), p.top_logits.end());
  const double difference = MaxAbsDifference(found, expected);
  EXPECT_EQ(ArgMax(logits), p.top_ids[0]) << "token " << t;
  EXPECT_LE(difference, kLogitTolerance) << "token " << t;
  *worst = std::max(*worst, difference);
}

TEST_F(DefaultModel, FloatLogitsEqualTransformersAtEveryPosition) {
  PHASOR_LOAD_OR_RETURN(MatMulPrecision::kF32);
  const GoldenFile golden = ReadLogits();
  std::vector<int32_t> ids = model_->tokenizer().Encode(ReadGoldenFile("default_text.txt"), {});
  ASSERT_GE(ids.size(), golden.tokens.size());
  ids.resize(golden.tokens.size());
  ASSERT_EQ(ids, golden.tokens);
  const std::unique_ptr<Session> session = NewSession("f32");
  ASSERT_NE(session, nullptr);
  std::size_t n_seen = 0;
  double worst = 0;
  AppendOptions options;
  options.on_logits = [&](int64_t t, std::span<const float> logits) {
    ExpectPosition(logits, golden, t, &worst);
    ++n_seen;
  };
  const Status status = session->Append(golden.tokens, options);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(n_seen, golden.tokens.size());
  RecordProperty("max_difference", std::to_string(worst));
}

// 160 tokens cross the border of the first frozen page of the cache.
TEST_F(DefaultModel, FloatLogitsTokenByTokenEqualTransformers) {
  PHASOR_LOAD_OR_RETURN(MatMulPrecision::kF32);
  const GoldenFile golden = ReadLogits();
  SessionOptions options;
  options.n_ctx = 512;
  options.type_k = options.type_v = "f32";
  options.n_recent = 16;
  const std::unique_ptr<Session> session = NewSession(options);
  ASSERT_NE(session, nullptr);
  double worst = 0;
  for (std::size_t t = 0; t < 160; ++t) {
    const Status status = session->Append(std::span(golden.tokens).subspan(t, 1), {});
    ASSERT_TRUE(status.ok()) << status.message();
    ExpectPosition(session->logits(), golden, t, &worst);
  }
}

TEST_F(DefaultModel, GreedyAnswersInFloatEqualTransformersTokenByToken) {
  PHASOR_LOAD_OR_RETURN(MatMulPrecision::kF32);
  const nlohmann::json chats = ReadGoldenJson("default_golden.json").at("chat");
  ASSERT_EQ(chats.size(), 2u);
  for (const auto& chat : chats) {
    const std::unique_ptr<Session> session = NewSession("f32");
    ASSERT_NE(session, nullptr);
    std::vector<int32_t> tokens;
    EXPECT_EQ(Answer(*session, chat, &tokens), chat.at("text").get<std::string>());
    EXPECT_EQ(tokens, chat.at("tokens").get<std::vector<int32_t>>());
  }
}

TEST_F(DefaultModel, DefaultSettingsAnswerBothQuestions) {
  PHASOR_LOAD_OR_RETURN(MatMulPrecision::kInt8);
  const nlohmann::json golden = ReadGoldenJson("default_golden.json");
  SessionOptions options;
  options.n_ctx = 1024;
  std::unique_ptr<Session> session = NewSession(options);
  ASSERT_NE(session, nullptr);
  const std::string days = Answer(*session, golden.at("chat").at(0), nullptr);
  EXPECT_NE(days.find("7 days"), std::string::npos) << days;
  session->Clear();
  const std::string four = Answer(*session, golden.at("chat").at(1), nullptr);
  EXPECT_TRUE(four.ends_with("4.")) << four;
}

TEST_F(DefaultModel, FloatPerplexityOfOneWindowEqualsTransformers) {
  PHASOR_LOAD_OR_RETURN(MatMulPrecision::kF32);
  const nlohmann::json expected = ReadGoldenJson("default_golden.json").at("perplexity");
  const std::unique_ptr<Session> session = NewSession("f32");
  ASSERT_NE(session, nullptr);
  const std::vector<int32_t> ids = LongText(expected);
  const double nll = WindowNll(*session, std::span(ids).first(expected.at("window")));
  const double want = expected.at("nll_per_window").at(0);
  EXPECT_NEAR(nll / want, 1.0, kF32NllTolerance);
}

TEST_F(DefaultModel, EightBitPerplexityIsWithinOnePercentOfTransformers) {
  PHASOR_LOAD_OR_RETURN(MatMulPrecision::kInt8);
  const nlohmann::json expected = ReadGoldenJson("default_golden.json").at("perplexity");
  const std::unique_ptr<Session> session = NewSession("f16");
  ASSERT_NE(session, nullptr);
  const double ratio = Perplexity(*session, expected) / expected.at("ppl").get<double>();
  RecordProperty("perplexity_ratio", std::to_string(ratio));
  EXPECT_NEAR(ratio, 1.0, kInt8PerplexityTolerance);
}

// Windows of 2,048 tokens put most keys and values into packed pages, unlike the short chats above.
TEST_F(DefaultModel, DefaultCacheKeepsPerplexityWithinOnePercentOfTransformers) {
  PHASOR_LOAD_OR_RETURN(MatMulPrecision::kInt8);
  const nlohmann::json expected = ReadGoldenJson("default_golden.json").at("perplexity");
  SessionOptions options;
  options.n_ctx = 2048;
  const std::unique_ptr<Session> session = NewSession(options);
  ASSERT_NE(session, nullptr);
  const double ratio = Perplexity(*session, expected) / expected.at("ppl").get<double>();
  RecordProperty("perplexity_ratio", std::to_string(ratio));
  EXPECT_NEAR(ratio, 1.0, kInt8PerplexityTolerance);
  EXPECT_GT(session->cache().FrozenBytes(), 0u);
}

}  // namespace
}  // namespace phasor
