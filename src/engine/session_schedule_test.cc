// Position schedules of sessions: the model's own, one per session, and from some token on.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/rng.h"
#include "cache/kv_cache.h"
#include "registry/position_table.h"
#include "tests/support/tiny_model.h"

namespace phasor {
namespace {

SessionOptions Options(int64_t n_ctx, const std::optional<RopeParams>& rope) {
  SessionOptions options;
  options.n_ctx = n_ctx;
  options.type_k = "frame4";  // made for the frequencies of a schedule
  options.type_v = "q4_head";
  options.n_recent = 16;
  options.rope = rope;
  return options;
}

RopeParams Named(const LoadedModel& model, const std::string& method, double factor) {
  RopeParams rope = model.config().rope;
  rope.method = method;
  rope.factor = factor;
  return rope;
}

std::unique_ptr<Session> Make(const LoadedModel& model, const SessionOptions& options) {
  auto session = Session::Create(model, options);
  EXPECT_TRUE(session.ok()) << session.status().message();
  return std::move(session).value();
}

std::vector<uint64_t> Steps(const Session& session) { return session.cache().schedule().step_P; }

TEST(SessionSchedule, LengthsAreThoseOfTheSession) {
  const auto model = testing::Load("llama_quantized.gguf");
  const int64_t trained = model->config().rope.original_context;
  const RopeParams dynamic = Named(*model, "dynamic_ntk", 1);
  const auto own = Make(*model, Options(trained, std::nullopt));
  EXPECT_EQ(Steps(*Make(*model, Options(trained, dynamic))), Steps(*own));
  const auto longer = Make(*model, Options(4 * trained, dynamic));
  EXPECT_EQ(Steps(*longer), Steps(*Make(*model, Options(trained, Named(*model, "ntk", 4)))));
  // From the next token on, by the same rule.
  const auto changed = Make(*model, Options(4 * trained, std::nullopt));
  ASSERT_TRUE(changed->SetSchedule(dynamic).ok());
  EXPECT_EQ(Steps(*changed), Steps(*longer));
}

TEST(SessionSchedule, ItMustTurnAsManyDimensionsAsTheModel) {
  const auto model = testing::Load("llama_quantized.gguf");
  RopeParams rope = model->config().rope;
  const auto session = Make(*model, Options(64, std::nullopt));
  rope.n_rot = 0;
  EXPECT_TRUE(session->SetSchedule(rope).ok());
  EXPECT_EQ(Steps(*session), Steps(*Make(*model, Options(64, rope))));
  rope.n_rot = model->config().rope.n_rot - 2;
  EXPECT_EQ(Session::Create(*model, Options(64, rope)).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(session->SetSchedule(rope).code(), StatusCode::kInvalidArgument);
}

// Pages of one store are all written by the codecs of its first session, whatever schedule later
// ones have: a file of such a session must not pass for one whose codecs were made for it.
TEST(SessionSchedule, FilesTellWhichScheduleTheCodecsWereMadeFor) {
  const auto model = testing::Load("llama_quantized.gguf");
  const RopeParams other = Named(*model, "linear", 4);
  const auto first = Make(*model, Options(512, std::nullopt));
  SessionOptions shared = Options(512, other);
  shared.store = first->store();
  const auto guest = Make(*model, shared);
  const auto host = Make(*model, Options(512, other));
  EXPECT_EQ(Steps(*guest), Steps(*host));
  Rng rng(1);
  ASSERT_TRUE(guest->Append(testing::RandomTokens(*model, 300, rng), {}).ok());
  const std::string path = ::testing::TempDir() + "phasor_session_schedule.span";
  ASSERT_TRUE(guest->Save(path).ok());
  const Status refused = host->Load(path);
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("RoPE"), std::string::npos) << refused.message();
  ASSERT_TRUE(first->SetSchedule(other).ok());
  const Status loaded = first->Load(path);
  EXPECT_TRUE(loaded.ok()) << loaded.message();
  EXPECT_EQ(first->tokens(), guest->tokens());
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace phasor
