#include "engine/session_codecs.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace phasor {
namespace {

using Types = std::vector<std::string>;

TEST(HeadTypes, TheLastEntryServesAllThatFollow) {
  EXPECT_EQ(HeadTypes("k", "a", 2, 2).value(), (Types{"a", "a", "a", "a"}));
  EXPECT_EQ(HeadTypes("k", "a,b", 3, 2).value(), (Types{"a", "a", "b", "b", "b", "b"}));
  EXPECT_EQ(HeadTypes("k", "a/b", 2, 3).value(), (Types{"a", "b", "b", "a", "b", "b"}));
}

TEST(HeadTypes, AnEntryMayServeSeveralLayers) {
  EXPECT_EQ(HeadTypes("k", "a*2,b/c,a", 4, 2).value(),
            (Types{"a", "a", "a", "a", "b", "c", "a", "a"}));
  EXPECT_EQ(HeadTypes("k", "a/b*3", 3, 2).value(), (Types{"a", "b", "a", "b", "a", "b"}));
}

TEST(HeadTypes, WhatDoesNotFitIsRefused) {
  for (const char* types : {"", ",", "a,", "a//b", "/a", "a,b,c", "a/b/c", "a*3", "a*2,b", "a*0",
                            "a*", "*2", "a*x", "a*99999999999999999999", "a*-1"}) {
    EXPECT_FALSE(HeadTypes("k", types, 2, 2).ok()) << types;
  }
}

}  // namespace
}  // namespace phasor
