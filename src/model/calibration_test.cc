#include "model/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

namespace phasor {
namespace {

Calibration Example() {
  Calibration c;
  c.fingerprint = "0123456789abcdef";
  c.n_layers = 1;
  c.n_kv_heads = 2;
  c.n_tokens = 300;
  c.sets.push_back({"frame4", 4.15, 3, {4, 5, 6, 1, 2, 3}});
  c.query_moments.n_channels = 3;
  c.query_moments.Append(std::vector<double>{4, 2, -1, 2, 9, 0, -1, 0, 1});
  c.query_moments.Append(std::vector<double>(9, 0.0));
  c.value_directions.n_channels = 3;
  c.value_directions.n_directions = 2;
  c.value_directions.Append(std::vector<float>{0.6f, 0.8f, 0, 0, 0, -1},
                            std::vector<float>{0.5f, 0.25f});
  c.value_directions.Append(std::vector<float>{0, 1, 0}, std::vector<float>{0.125f});
  return c;
}

std::string Text(const std::string& moments) {
  return R"({"format": "phasor-calibration", "version": 2, "fingerprint": "x", "n_layers": 1,
             "n_kv_heads": 1, "n_tokens": 1, "sets": [])" +
         moments + "}";
}

TEST(Calibration, MomentsAndDirectionsComeBackFromTheFile) {
  const std::string path =
      (std::filesystem::temp_directory_path() / "phasor-calibration-moments-test.json").string();
  ASSERT_TRUE(Example().Write(path).ok());
  const auto read = Calibration::Read(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->Classes("frame4", 0, 1)[2], 3);
  const std::vector<float> m = read->QueryMoments(0, 0);
  ASSERT_EQ(m.size(), 9u);
  // In units of the largest, deviations to 11 bits and correlations to half of 1/127.
  const double expected[] = {4, 2, -1, 2, 9, 0, -1, 0, 1};
  for (int i = 0; i < 9; ++i) {
    const double largest = std::sqrt(expected[i / 3 * 4] * expected[i % 3 * 4]);
    EXPECT_NEAR(9 * m[i], expected[i], largest * (0.5 / 127 + 0x1p-9)) << i;
  }
  EXPECT_EQ(read->QueryMoments(0, 1), std::vector<float>(9, 0.0f));
  // Directions in units of their largest number, those that were not there left out.
  const Calibration::Directions two = read->ValueDirections(0, 0),
                                one = read->ValueDirections(0, 1);
  EXPECT_EQ(two.factor_N, (std::vector<float>{0.5f, 0.25f}));
  ASSERT_EQ(two.direction_ND.size(), 6u);
  const float directions[] = {0.75f, 1, 0, 0, 0, -1};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(two.direction_ND[i], directions[i], 0.5 / 127) << i;
  EXPECT_EQ(one.factor_N, (std::vector<float>{0.125f}));
  EXPECT_EQ(one.direction_ND, (std::vector<float>{0, 1, 0}));
}

TEST(Calibration, FilesWithoutThemAreAsBefore) {
  const auto read = Calibration::Parse(Text(""), "file");
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_TRUE(read->QueryMoments(0, 0).empty());
  EXPECT_TRUE(read->ValueDirections(0, 0).factor_N.empty());
  EXPECT_TRUE(read->ValueDirectionBytes(0, 0).empty());
}

TEST(Calibration, DamagedMomentsNameWhatIsWrong) {
  auto message = [](const std::string& moments) {
    const auto read = Calibration::Parse(Text(", \"query_moments\": " + moments), "file");
    return read.ok() ? "" : std::string(read.status().message());
  };
  EXPECT_EQ(message(R"({"n_channels": 2, "moments": ["003c003c7f"]})"), "");
  EXPECT_EQ(message("1"), "file: calibration: query_moments: expected an object");
  EXPECT_EQ(message(R"({"moments": []})"), "file: calibration: n_channels: expected an integer");
  EXPECT_EQ(message(R"({"n_channels": 0, "moments": [""]})"),
            "file: calibration: query_moments: n_channels: expected at least 1, found 0");
  EXPECT_EQ(message(R"({"n_channels": 2, "moments": []})"),
            "file: calibration: moments: expected 1 strings");
  EXPECT_EQ(message(R"({"n_channels": 2, "moments": ["00"]})"),
            "file: calibration: moments: expected strings of 10 hex digits");
  EXPECT_EQ(message(R"({"n_channels": 2, "moments": ["003c003cxx"]})"),
            "file: calibration: moments: expected hex digits, found xx");
  for (const char* half : {"007c", "007e", "00bc"}) {  // infinity, NaN, -1
    EXPECT_EQ(message(std::string(R"({"n_channels": 2, "moments": ["003c)") + half + R"(7f"]})"),
              "file: calibration: moments: expected finite numbers of at least 0 for the 2 "
              "channels of head 0, found others");
  }
}

TEST(Calibration, DamagedDirectionsNameWhatIsWrong) {
  auto message = [](const std::string& directions) {
    const auto read = Calibration::Parse(Text(", \"value_directions\": " + directions), "file");
    return read.ok() ? "" : std::string(read.status().message());
  };
  EXPECT_EQ(message(R"({"n_channels": 2, "n_directions": 1, "directions": ["0038007f"]})"), "");
  EXPECT_EQ(message("1"), "file: calibration: value_directions: expected an object");
  EXPECT_EQ(message(R"({"n_channels": 2, "n_directions": 3, "directions": []})"),
            "file: calibration: n_directions: expected 0 to 2, found 3");
  EXPECT_EQ(message(R"({"n_channels": 2, "n_directions": 1, "directions": ["00"]})"),
            "file: calibration: directions: expected strings of 8 hex digits");
}

TEST(Calibration, NumbersOfAnotherHeadSizeDoNotFit) {
  ModelConfig config;
  config.n_layers = 1;
  config.n_kv_heads = 2;
  config.head_dim = 4;
  const Calibration c = Example();
  EXPECT_FALSE(c.CheckFits(config, c.fingerprint).ok());
  config.head_dim = 3;
  EXPECT_TRUE(c.CheckFits(config, c.fingerprint).ok());
}

}  // namespace
}  // namespace phasor
