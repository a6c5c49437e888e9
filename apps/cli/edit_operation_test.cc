#include "cli/edit_operation.h"

#include <gtest/gtest.h>

namespace phasor::cli {
namespace {

using Kind = EditOperation::Kind;

EditOperation Parse(const std::string& text) {
  auto op = ParseEditOperation(text);
  EXPECT_TRUE(op.ok()) << op.status().message();
  return op.ok() ? *op : EditOperation{};
}

TEST(EditOperation, EveryWordReadsItsArguments) {
  EditOperation op = Parse("erase 10:20");
  EXPECT_EQ(op.kind, Kind::kErase);
  EXPECT_EQ(op.range.begin, 10);
  EXPECT_EQ(op.range.EndIn(100), 20);
  op = Parse("erase 10:");
  EXPECT_EQ(op.range.EndIn(100), 100);
  op = Parse("pin 7");
  EXPECT_EQ(op.kind, Kind::kPin);
  EXPECT_EQ(op.range.EndIn(100), 8);
  op = Parse("move 1:5 30");
  EXPECT_EQ(op.kind, Kind::kMove);
  EXPECT_EQ(op.to, 30);
  op = Parse("insert 4  two spaces  kept ");
  EXPECT_EQ(op.kind, Kind::kInsert);
  EXPECT_EQ(op.range.begin, 4);
  EXPECT_EQ(op.range.EndIn(9), 4);
  EXPECT_EQ(op.text, " two spaces  kept ");
  op = Parse("replace 2:3 x");
  EXPECT_EQ(op.kind, Kind::kReplace);
  EXPECT_EQ(op.text, "x");
  op = Parse("sub a b => c => d");
  EXPECT_EQ(op.text, "a b");
  EXPECT_EQ(op.new_text, "c => d");
  op = Parse("sub gone =>");
  EXPECT_EQ(op.text, "gone");
  EXPECT_EQ(op.new_text, "");
  EXPECT_EQ(Parse("truncate 12").range.begin, 12);
}

TEST(EditOperation, OtherFormsAreRefusedWithWhatWasExpected) {
  for (const char* text :
       {"", "erase", "erase 5:4", "erase -1:4", "erase a:b", "move 1:2", "move 1:2 x", "insert 4",
        "replace 1:2", "sub x", "sub  => y", "truncate", "frob 1:2",
        "erase 99999999999999999999:", "pin 9223372036854775807"}) {
    auto op = ParseEditOperation(text);
    ASSERT_FALSE(op.ok()) << text;
    EXPECT_EQ(op.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(op.status().message().find("expected"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace phasor::cli
