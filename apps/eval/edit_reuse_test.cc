#include "eval/edit_reuse.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/rng.h"

namespace phasor::eval {
namespace {

using Ranges = std::vector<std::pair<int64_t, int64_t>>;

// Reading everything again is exact but for the order of float sums, whose error in a logit is
// near 1e-5; a KL divergence grows with its square, and KlDivergence is good to 1e-6.
constexpr double kFloorKl = 2e-6;

std::unique_ptr<LoadedModel> TinyModel() {
  LoadOptions options;
  options.path = PHASOR_SOURCE_DIR "/tests/golden/models/llama_quantized.gguf";
  options.n_threads = 1;
  options.precision = MatMulPrecision::kF32;
  options.use_calibration = false;
  auto model = LoadedModel::Load(options);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(*model);
}

// Three files of numbered lines in a folder of their own.
class Edits : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/edits_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/.hidden");
    for (const char* name : {"b.cc", "a.cc", "c.cc", ".hidden/x.cc"}) {
      std::ofstream out(folder_ + "/" + name);
      for (int i = 0; i < 120; ++i) out << name[0] << " line " << i * i % 97 << ";\n";
    }
    std::ofstream(folder_ + "/binary", std::ios::binary).write("a\0b", 3);
    model_ = TinyModel();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  SourceText Source() {
    auto source = ReadSources(model_->tokenizer(), {folder_});
    EXPECT_TRUE(source.ok()) << source.status().message();
    return std::move(*source);
  }
  std::string Text(std::span<const int32_t> tokens) {
    return model_->tokenizer().Decode(tokens, true);
  }

  std::string folder_;
  std::unique_ptr<LoadedModel> model_;
};

TEST_F(Edits, SourcesAreReadInOrderOfTheirPathsWithoutHiddenAndBinaryFiles) {
  const SourceText source = Source();
  const std::string text = Text(source.tokens);
  const std::size_t a = text.find("// a.cc"), b = text.find("// b.cc"), c = text.find("// c.cc");
  ASSERT_NE(c, std::string::npos);
  EXPECT_LT(a, b);
  EXPECT_LT(b, c);
  EXPECT_EQ(source.files.size(), 3u);
  EXPECT_EQ(text.find("x.cc"), std::string::npos);
  EXPECT_FALSE(ReadSources(model_->tokenizer(), {folder_ + "/nope"}).ok());
  EXPECT_FALSE(ReadSources(model_->tokenizer(), {folder_ + "/binary"}).ok());
  // As many lines as the text has, each beginning where a line begins.
  const auto feeds = std::count(text.begin(), text.end(), '\n');
  EXPECT_NEAR(static_cast<double>(source.lines.size()), static_cast<double>(feeds), 3.0);
}

TEST_F(Edits, EveryEditLeadsFromAnotherTextToTheDocument) {
  const SourceText source = Source();
  EditDocumentOptions options;
  options.n_tokens = 600;
  options.n_continuation = 20;
  options.n_documents = 3;
  options.depths = {0, 0.3, 1};
  const auto documents = MakeEditDocuments(source, options);
  ASSERT_TRUE(documents.ok()) << documents.status().message();
  ASSERT_EQ(documents->size(), 3u);
  for (const EditDocument& d : *documents) {
    EXPECT_LE(d.tokens.size(), 600u);
    EXPECT_GT(d.tokens.size(), 560u);  // no line has 40 tokens
    EXPECT_EQ(d.continuation.size(), 20u);
    ASSERT_EQ(d.edits.size(), 9u);
    std::vector<int32_t> whole = d.tokens;
    whole.insert(whole.end(), d.continuation.begin(), d.continuation.end());
    EXPECT_NE(std::search(source.tokens.begin(), source.tokens.end(), whole.begin(), whole.end()),
              source.tokens.end());
    for (const SourceEdit& e : d.edits) {
      EXPECT_EQ(e.before.empty(), e.kind == "insert");
      EXPECT_EQ(e.after.empty(), e.kind == "delete");
      const auto n_after = static_cast<int64_t>(e.after.size());
      ASSERT_GT(e.at, 0);
      ASSERT_LT(e.at + n_after, static_cast<int64_t>(d.tokens.size()));
      EXPECT_TRUE(std::equal(e.after.begin(), e.after.end(), d.tokens.begin() + e.at));
      for (const auto& lines : {e.before, e.after}) {
        const std::string text = Text(lines);
        EXPECT_LE(std::count(text.begin(), text.end(), '\n'), options.max_lines) << text;
      }
    }
  }
  // The same seed gives the same documents, another one others.
  const auto again = MakeEditDocuments(source, options);
  EXPECT_EQ(again->at(2).tokens, documents->at(2).tokens);
  EXPECT_EQ(again->at(2).edits[4].before, documents->at(2).edits[4].before);
  options.n_tokens = 1 << 20;
  EXPECT_EQ(MakeEditDocuments(source, options).status().code(), StatusCode::kInvalidArgument);
  options.n_tokens = 600;
  options.kinds = {"rename"};
  EXPECT_EQ(MakeEditDocuments(source, options).status().code(), StatusCode::kInvalidArgument);
}

TEST(EditMethods, AreReadAsTheyAreWritten) {
  for (const std::string& id : DefaultEditMethods()) EXPECT_TRUE(ParseEditMethod(id).ok()) << id;
  EXPECT_EQ(ParseEditMethod("tail:0.25")->share, 0.25);
  EXPECT_EQ(ParseEditMethod("tail:0.25")->name, "tail");
  for (const char* id : {"", "pie:0.1", "tail", "tail:", "tail:0", "tail:1.1", "tail:x", "tail:nan",
                         "tail:0.1x", "head:0.1"}) {
    EXPECT_FALSE(ParseEditMethod(id).ok()) << id;
  }
}

TEST(EditMethods, ChooseTheShareOfTokensTheyNameWhereTheyShould) {
  Rng rng(1);
  for (const int64_t n : {1, 15, 16, 17, 160, 1000}) {
    std::vector<float> deviation(n);
    for (float& x : deviation) x = static_cast<float>(rng.Uniform());
    for (const char* name : {"behind", "tail", "spread", "deviating"}) {
      for (const double share : {0.05, 0.15, 0.5, 1.0}) {
        const EditMethod method{.id = "", .name = name, .share = share};
        const Ranges ranges = SelectTokens(method, n, deviation);
        int64_t sum = 0, last = -1;
        for (const auto& [begin, end] : ranges) {
          EXPECT_GT(begin, last);  // ascending, not touching
          EXPECT_GT(end, begin);
          EXPECT_LE(end, n);
          sum += end - begin;
          last = end;
        }
        EXPECT_NEAR(static_cast<double>(sum), share * static_cast<double>(n), kEditBlockTokens)
            << name << " " << share << " of " << n;
        if (share == 1.0) {
          EXPECT_EQ(ranges, (Ranges{{0, n}})) << name;
        }
      }
    }
  }
  EXPECT_EQ(SelectTokens({"", "behind", 0.1}, 100, {}), (Ranges{{0, 10}}));
  EXPECT_EQ(SelectTokens({"", "tail", 0.1}, 100, {}), (Ranges{{90, 100}}));
  std::vector<float> deviation(160);
  deviation[70] = deviation[130] = 1;
  EXPECT_EQ(SelectTokens({"", "deviating", 0.2}, 160, deviation), (Ranges{{64, 80}, {128, 144}}));
}

TEST_F(Edits, ReadingAllAgainIsExactInEveryWayAndReuseIsNot) {
  EditDocumentOptions document_options;
  document_options.n_tokens = 500;
  document_options.n_continuation = 24;
  document_options.n_documents = 2;
  document_options.depths = {0.2, 0.8};
  const auto documents = MakeEditDocuments(Source(), document_options);
  ASSERT_TRUE(documents.ok()) << documents.status().message();
  EditEvalOptions options;
  options.session.type_k = options.session.type_v = "f32";
  for (const char* id : {"unedited", "stay", "pie", "behind:1", "tail:1", "spread:1", "deviating:1",
                         "deviating:0.2", "spread:0.2", "tail:0.2", "reread"}) {
    options.methods.push_back(*ParseEditMethod(id));
  }
  int64_t steps = 0;
  options.on_progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++steps);
    EXPECT_EQ(total, 2 * (1 + 6 * 12));
  };
  const auto results = EvaluateEdits(*model_, *documents, options);
  ASSERT_TRUE(results.ok()) << results.status().message();
  EXPECT_EQ(steps, 2 * (1 + 6 * 12));
  ASSERT_EQ(results->size(), 2u * 6 * 11);
  for (const EditResult& r : *results) {
    ASSERT_EQ(r.kl.size(), 24u);
    const float worst = *std::max_element(r.kl.begin(), r.kl.end());
    if (r.method.share == 1 || r.method.name == "reread") {
      EXPECT_LE(worst, kFloorKl) << r.method.id;
      EXPECT_EQ(r.n_same_top, 24) << r.method.id;
      EXPECT_TRUE(r.same_line) << r.method.id;
      EXPECT_GE(r.n_read, r.distance) << r.method.id;
    } else {
      EXPECT_GT(worst, kFloorKl) << r.method.id;
      EXPECT_LT(r.n_read, r.distance) << r.method.id;
    }
  }
  const Json report = EditReport(*results);
  ASSERT_EQ(report.size(), 11u);
  EXPECT_EQ(report[2]["method"], "pie");
  EXPECT_EQ(report[2]["edits"], 12);
  EXPECT_EQ(report[2]["by_kind"].size(), 3u);
  EXPECT_LT(report[2]["mean_kl"].get<double>(), report[1]["mean_kl"].get<double>());
  const std::string table = RenderEditTables(report, "md");
  EXPECT_NE(table.find("| deviating:0.2 |"), std::string::npos) << table;
}

TEST_F(Edits, ACancelledEvaluationSaysSo) {
  EditDocumentOptions document_options;
  document_options.n_tokens = 200;
  document_options.n_continuation = 4;
  const auto documents = MakeEditDocuments(Source(), document_options);
  ASSERT_TRUE(documents.ok()) << documents.status().message();
  EditEvalOptions options;
  options.methods = {*ParseEditMethod("pie")};
  std::atomic<bool> stop = false;
  options.cancel = &stop;
  options.on_progress = [&](int64_t done, int64_t) { stop = done == 3; };
  EXPECT_EQ(EvaluateEdits(*model_, *documents, options).status().code(), StatusCode::kCancelled);
}

TEST_F(Edits, SpeedIsThatOfTheTokensThatAreRead) {
  EditSpeedOptions options;
  options.n_tokens = {400};
  options.shares = {0, 0.5};
  options.edit_share = 0.05;
  for (const bool sampled : {false, true}) {
    options.sampled = sampled;
    const auto rows = MeasureEditSpeed(*model_, options);
    ASSERT_TRUE(rows.ok()) << rows.status().message();
    ASSERT_EQ(rows->size(), 2u);
    EXPECT_EQ((*rows)[0]["n_tokens"], 400);
    EXPECT_EQ((*rows)[0]["n_edit"], 20);
    EXPECT_EQ((*rows)[0]["n_read"], 21);   // and the last token, for its logits
    EXPECT_EQ((*rows)[1]["n_read"], 116);  // half of 190, and the last
    for (const Json& row : *rows) {
      EXPECT_GT(row["speedup"].get<double>(), 0);
      EXPECT_NEAR(row["time_saved"].get<double>(), 1 - 1 / row["speedup"].get<double>(), 1e-9);
    }
  }
}

}  // namespace
}  // namespace phasor::eval
