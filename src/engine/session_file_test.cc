// Sessions that are saved and loaded go on as if nothing had happened, bit for bit.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "cache/kv_cache.h"
#include "engine/calibrate.h"
#include "engine/engine.h"
#include "engine/session_fingerprint.h"

namespace phasor {
namespace {

std::unique_ptr<LoadedModel> LoadTiny(const std::string& name,
                                      const std::string& calibration_path = "") {
  LoadOptions options;
  options.path = std::string(PHASOR_SOURCE_DIR) + "/tests/golden/models/" + name;
  options.n_threads = 2;
  options.calibration_path = calibration_path;
  options.use_calibration = !calibration_path.empty();
  auto model = LoadedModel::Load(options);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(model).value();
}

SessionOptions Types(const std::string& k, const std::string& v) {
  SessionOptions options;
  options.n_ctx = 1000;
  options.type_k = k;
  options.type_v = v;
  options.n_recent = 32;
  return options;
}

std::vector<int32_t> RandomTokens(const LoadedModel& model, int n, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) {
    tokens.push_back(static_cast<int32_t>(rng.Below(model.config().n_vocab)));
  }
  return tokens;
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

void ExpectSameState(const Session& a, const Session& b) {
  EXPECT_EQ(a.tokens(), b.tokens());
  EXPECT_TRUE(SameBits(a.logits(), b.logits()));
  EXPECT_EQ(a.cache().next_position(), b.cache().next_position());
  EXPECT_EQ(a.cache().n_stale_tokens(), b.cache().n_stale_tokens());
  EXPECT_EQ(a.cache().n_frozen_tokens(), b.cache().n_frozen_tokens());
  std::vector<bool> pinned_a, pinned_b;
  for (const KvPiece& p : a.cache().pieces()) pinned_a.insert(pinned_a.end(), p.n_rows, p.pinned);
  for (const KvPiece& p : b.cache().pieces()) pinned_b.insert(pinned_b.end(), p.n_rows, p.pinned);
  EXPECT_EQ(pinned_a, pinned_b);
  ASSERT_EQ(a.n_tokens(), b.n_tokens());
  for (int64_t i = 0; i <= a.n_tokens(); ++i) {
    ASSERT_EQ(a.cache().PositionOf(i), b.cache().PositionOf(i)) << "token " << i;
  }
}

class SessionFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "phasor_session_" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".span";
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove(path_); }
  std::string path_;
};

TEST_F(SessionFile, ASavedSessionGoesOnBitForBitInAModelLoadedAnew) {
  const auto model = LoadTiny("llama_gqa_tied");
  const std::vector<int32_t> more = RandomTokens(*model, 200, 2);
  for (const auto& [k, v] : {std::pair<const char*, const char*>{"f32", "f32"},
                             {"f16", "f16"},
                             {"bf16", "q8_0"},
                             {"frame4", "q4_head"},
                             {"int3_channel", "q3_head"},
                             {"polar", "q4_0h"}}) {
    SCOPED_TRACE(std::string(k) + " / " + v);
    auto session = Session::Create(*model, Types(k, v));
    ASSERT_TRUE(session.ok()) << session.status().message();
    ASSERT_TRUE((*session)->Append(RandomTokens(*model, 300, 1), {}).ok());
    ASSERT_TRUE((*session)->Save(path_).ok());

    const auto again = LoadTiny("llama_gqa_tied");
    auto loaded = Session::Create(*again, Types(k, v));
    ASSERT_TRUE(loaded.ok());
    // Whatever it held before gives way.
    ASSERT_TRUE((*loaded)->Append(RandomTokens(*again, 150, 7), {}).ok());
    const Status status = (*loaded)->Load(path_);
    ASSERT_TRUE(status.ok()) << status.message();
    ExpectSameState(**session, **loaded);
    // One token at a time, then many, past the next freeze.
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE((*session)->Append(std::span(more).subspan(i, 1), {}).ok());
      ASSERT_TRUE((*loaded)->Append(std::span(more).subspan(i, 1), {}).ok());
      ASSERT_TRUE(SameBits((*session)->logits(), (*loaded)->logits())) << i;
    }
    ASSERT_TRUE((*session)->Append(std::span(more).subspan(3), {}).ok());
    ASSERT_TRUE((*loaded)->Append(std::span(more).subspan(3), {}).ok());
    ExpectSameState(**session, **loaded);
  }
}

TEST_F(SessionFile, EditsPinsAndFractionsOfPositionsSurvive) {
  const auto model = LoadTiny("llama_gqa_tied");
  auto session = Session::Create(*model, Types("frame4", "q4_head"));
  auto loaded = Session::Create(*model, Types("frame4", "q4_head"));
  ASSERT_TRUE(session.ok() && loaded.ok());
  Session& s = **session;
  ASSERT_TRUE(s.Append(RandomTokens(*model, 400, 1), {}).ok());
  ASSERT_TRUE(s.Erase(100, 133).ok());
  ASSERT_TRUE(s.Move(10, 50, 300).ok());
  ASSERT_TRUE(s.Copy(200, 260, 20).ok());
  ASSERT_TRUE(s.Pin(5, 40).ok());
  s.cache().SetNextPosition(s.cache().next_position() + kTicksPerPosition / 7);
  ASSERT_TRUE(s.logits().empty());
  ASSERT_TRUE(s.Save(path_).ok());
  ASSERT_TRUE((*loaded)->Load(path_).ok());
  EXPECT_GT(s.cache().n_stale_tokens(), 0);
  ExpectSameState(s, **loaded);
  const std::vector<int32_t> more = RandomTokens(*model, 100, 3);
  ASSERT_TRUE(s.Append(more, {}).ok() && (*loaded)->Append(more, {}).ok());
  ExpectSameState(s, **loaded);
  EXPECT_FALSE((*loaded)->Erase(0, 10).ok());
}

TEST_F(SessionFile, EveryFileThatDoesNotFitIsOneErrorAndLeavesTheSession) {
  const auto model = LoadTiny("llama_gqa_tied");
  const auto other_model = LoadTiny("qwen2");
  const auto save = [&](const LoadedModel& m, const SessionOptions& options, int n) {
    auto session = Session::Create(m, options);
    ASSERT_TRUE(session.ok()) << session.status().message();
    ASSERT_TRUE((*session)->Append(RandomTokens(m, n, 4), {}).ok());
    const Status status = (*session)->Save(path_);
    ASSERT_TRUE(status.ok()) << status.message();
  };
  auto session = Session::Create(*model, Types("q8_0", "q8_0"));
  auto twin = Session::Create(*model, Types("q8_0", "q8_0"));
  ASSERT_TRUE(session.ok() && twin.ok());
  const std::vector<int32_t> text = RandomTokens(*model, 200, 5);
  ASSERT_TRUE((*session)->Append(text, {}).ok() && (*twin)->Append(text, {}).ok());
  const auto refuse = [&](StatusCode code, const std::string& part) {
    const Status status = (*session)->Load(path_);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    ExpectSameState(**session, **twin);
  };
  refuse(StatusCode::kNotFound, "");
  save(*other_model, Types("q8_0", "q8_0"), 20);
  refuse(StatusCode::kInvalidArgument, "model hash: expected");
  save(*model, Types("q8_0", "q4_0"), 20);
  refuse(StatusCode::kInvalidArgument, "layer 0: V type: expected \"q8_0\", found \"q4_0\"");
  SessionOptions stretched = Types("q8_0", "q8_0");
  stretched.rope = model->config().rope;
  stretched.rope->theta_base *= 2;
  save(*model, stretched, 20);
  refuse(StatusCode::kInvalidArgument, "RoPE");
  save(*model, Types("q8_0", "q8_0"), 300);
  auto narrow_options = Types("q8_0", "q8_0");
  narrow_options.n_ctx = 299;
  auto narrow = Session::Create(*model, narrow_options);
  ASSERT_TRUE(narrow.ok());
  EXPECT_EQ((*narrow)->Load(path_).code(), StatusCode::kOutOfRange);
  EXPECT_EQ((*narrow)->n_tokens(), 0);
  std::string bytes = ReadFile(path_).value();
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  auto writer = AtomicFileWriter::Create(path_);
  ASSERT_TRUE(writer.ok() && writer->Write(bytes).ok() && writer->Commit().ok());
  refuse(StatusCode::kDataCorrupt, "checksum");
  const std::vector<int32_t> more = RandomTokens(*model, 10, 6);
  ASSERT_TRUE((*session)->Append(more, {}).ok() && (*twin)->Append(more, {}).ok());
  ExpectSameState(**session, **twin);
}

// Pages of the first layout have as many bytes and were saved under the plain id.
TEST_F(SessionFile, PagesOfAnOlderLayoutAreRefused) {
  const auto model = LoadTiny("llama_gqa_tied");
  auto session = Session::Create(*model, Types("int4_channel", "q4_head"));
  ASSERT_TRUE(session.ok());
  const SpanFingerprint now = SessionFingerprint(**session);
  EXPECT_EQ(now.layers[0].key_codec, "int4_channel@2");
  EXPECT_EQ(now.layers[0].value_codec, "q4_head");
  SpanFingerprint before = now;
  for (SpanLayerCodecs& layer : before.layers) layer.key_codec = "int4_channel";
  const Status status = CheckSameFingerprint(now, before, "a.span");
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("layer 0: K type: expected \"int4_channel@2\", found "
                                  "\"int4_channel\""),
            std::string::npos)
      << status.message();
  EXPECT_EQ(TypesOfLayer("int4_channel@2/f16/frame4@10"), "int4_channel/f16/frame4");
}

// Stretched values are read back with the directions they were stretched along; where queries look
// only changed what was rounded how.
TEST_F(SessionFile, OtherDirectionsOfValuesAreAnotherFingerprint) {
  const auto plain = LoadTiny("llama_quantized.gguf");
  const std::vector<int32_t> tokens = RandomTokens(*plain, 300, 1);
  auto widths = Calibrate(*plain, tokens, {});
  ASSERT_TRUE(widths.ok()) << widths.status().message();
  const ModelConfig& c = plain->config();
  const auto n_heads = static_cast<std::size_t>(c.n_layers) * c.n_kv_heads;
  widths->sets.push_back({"q4_head", 4.0, 1, std::vector<uint8_t>(n_heads, 4)});
  auto calibration = CalibrateAround(*plain, tokens, {}, *widths);
  ASSERT_TRUE(calibration.ok()) << calibration.status().message();
  ASSERT_GT(calibration->value_directions.n_directions, 0);
  const std::string file = path_ + ".json";
  auto hash = [&] {
    EXPECT_TRUE(calibration->Write(file).ok());
    const auto model = LoadTiny("llama_quantized.gguf", file);
    auto session = Session::Create(*model, Types("frame4", "q4_head"));
    EXPECT_TRUE(session.ok()) << session.status().message();
    return SessionFingerprint(**session).layers[0].calibration_hash;
  };
  const uint64_t before = hash();
  calibration->query_moments = {};
  EXPECT_EQ(hash(), before);
  calibration->value_directions.bytes[2] ^= 1;  // a number of the first direction
  const uint64_t turned = hash();
  EXPECT_NE(turned, before);
  calibration->value_directions = {};
  EXPECT_NE(hash(), before);
  EXPECT_NE(hash(), turned);
  std::filesystem::remove(file);
}

TEST_F(SessionFile, AnEmptySessionIsNotSaved) {
  const auto model = LoadTiny("llama_gqa_tied");
  auto session = Session::Create(*model, Types("f16", "f16"));
  ASSERT_TRUE(session.ok());
  EXPECT_EQ((*session)->Save(path_).code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(FileExists(path_));
}

}  // namespace
}  // namespace phasor
