#include "eval/fields.h"

#include <gtest/gtest.h>

namespace phasor::eval {
namespace {

using Json = nlohmann::json;

std::string ErrorOf(const char* text, void (*read)(Fields&)) {
  const Json j = Json::parse(text);
  Fields f(j, "x.json");
  read(f);
  return f.Finish().message();
}

TEST(Fields, WhatIsAskedForAndThereIsRead) {
  const Json j = Json::parse(R"({"s":"a","n":3,"x":0.5,"l":["b","c"],"d":[0,1],"m":{"k":1}})");
  Fields f(j, "x.json");
  std::string s;
  int64_t n = 0, absent = 7;
  double x = 0;
  std::vector<std::string> l;
  std::vector<double> d;
  f.String("s", &s);
  f.Integer("n", 3, &n, 3);
  f.OptionalInteger("none", 1, &absent);
  f.OptionalNumber("x", &x);
  f.Strings("l", &l);
  f.Numbers("d", 0, 1, &d);
  EXPECT_EQ(f.Member("m").size(), 1);
  EXPECT_TRUE(f.Member("nowhere", false).empty());
  ASSERT_TRUE(f.Finish().ok()) << f.status().message();
  EXPECT_EQ(s, "a");
  EXPECT_EQ(n, 3);
  EXPECT_EQ(absent, 7);
  EXPECT_EQ(x, 0.5);
  EXPECT_EQ(l, (std::vector<std::string>{"b", "c"}));
  EXPECT_EQ(d, (std::vector<double>{0, 1}));
}

TEST(Fields, ErrorsNameThePlaceAndTheField) {
  const auto integer = [](Fields& f) {
    int64_t n = 0;
    f.Integer("n", 1, &n, 9);
  };
  for (const char* bad : {R"({"n":0})", R"({"n":10})", R"({"n":1.5})", R"({"n":"1"})",
                          R"({"n":18446744073709551615})"}) {
    EXPECT_EQ(ErrorOf(bad, integer), "x.json: n: expected an integer of 1 to 9") << bad;
  }
  EXPECT_EQ(ErrorOf("{}", integer), "x.json: n: expected this field, found none");
  EXPECT_EQ(ErrorOf("[]", integer), "x.json: expected an object");
  const auto numbers = [](Fields& f) {
    std::vector<double> list;
    f.Numbers("l", 0, 1, &list);
  };
  for (const char* bad : {R"({"l":[]})", R"({"l":[2]})", R"({"l":["a"]})", R"({"l":0.5})"}) {
    EXPECT_EQ(ErrorOf(bad, numbers), "x.json: l: expected a list of numbers of 0 to 1") << bad;
  }
}

TEST(Fields, WhatNobodyAsksForIsAnError) {
  EXPECT_EQ(ErrorOf(R"({"a":"","b":1})",
                    [](Fields& f) {
                      std::string a;
                      f.String("a", &a);
                    }),
            "x.json: expected fields out of a, found b");
  EXPECT_EQ(ErrorOf(R"({"b":1})", [](Fields&) {}), "x.json: expected no fields, found b");
}

TEST(Fields, TheFirstErrorStays) {
  const Json j = Json::parse(R"({"a":1,"c":2})");
  Fields f(j, "x.json");
  std::string a, b;
  f.String("a", &a);
  f.String("b", &b);
  EXPECT_EQ(f.Finish().message(), "x.json: a: expected a string");
}

}  // namespace
}  // namespace phasor::eval
