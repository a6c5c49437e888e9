#include "base/table.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace phasor {
namespace {

Table Sample() {
  Table table({{"cache", Table::Align::kLeft}, {"t/s", Table::Align::kRight}});
  table.AddRow({"f16", "9.5"});
  table.AddRow({"größer", "1234.5"});
  return table;
}

TEST(Table, PlainColumnsAlignByCharacters) {
  EXPECT_EQ(Sample().Render(Table::Format::kPlain),
            "cache      t/s\n"
            "------  ------\n"
            "f16        9.5\n"
            "größer  1234.5\n");
}

TEST(Table, MarkdownMarksRightAlignedColumns) {
  EXPECT_EQ(Sample().Render(Table::Format::kMarkdown),
            "| cache  |    t/s |\n"
            "| ------ | -----: |\n"
            "| f16    |    9.5 |\n"
            "| größer | 1234.5 |\n");
}

TEST(Table, MarkdownCellsCannotBreakTheTable) {
  Table table({{"a"}});
  table.AddRow({"x|y\nz"});
  EXPECT_EQ(table.Render(Table::Format::kMarkdown),
            "| a      |\n"
            "| ------ |\n"
            "| x\\|y z |\n");
}

TEST(Table, CsvQuotesWhatNeedsIt) {
  Table table({{"name, unit"}, {"b"}});
  table.AddRow({"say \"hi\"", "1"});
  table.AddRow({"two\nlines", ""});
  EXPECT_EQ(table.Render(Table::Format::kCsv),
            "\"name, unit\",b\n\"say \"\"hi\"\"\",1\n\"two\nlines\",\n");
}

TEST(Table, JsonReadsBackAsTheSameCells) {
  Table table({{"a"}, {"b"}});
  table.AddRow({"q\"\\\n\x01", "größer"});
  table.AddRow({"", "2"});
  auto json = nlohmann::json::parse(table.Render(Table::Format::kJson));
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0]["a"], "q\"\\\n\x01");
  EXPECT_EQ(json[0]["b"], "größer");
  EXPECT_EQ(json[1]["b"], "2");
}

TEST(Table, WithoutRowsItStillHasItsHead) {
  Table table({{"a"}, {"long name"}});
  EXPECT_EQ(table.Render(Table::Format::kPlain), "a    long name\n---  ---------\n");
  EXPECT_EQ(table.Render(Table::Format::kCsv), "a,long name\n");
  EXPECT_EQ(nlohmann::json::parse(table.Render(Table::Format::kJson)).size(), 0u);
}

TEST(Table, FormatsAreFoundByName) {
  EXPECT_EQ(ParseTableFormat("md"), Table::Format::kMarkdown);
  EXPECT_EQ(ParseTableFormat("csv"), Table::Format::kCsv);
  EXPECT_EQ(ParseTableFormat("json"), Table::Format::kJson);
  EXPECT_EQ(ParseTableFormat("plain"), Table::Format::kPlain);
  EXPECT_FALSE(ParseTableFormat("xml").has_value());
}

TEST(TableDeathTest, ARowOfAnotherLengthIsAProgrammerError) {
  EXPECT_DEATH(Sample().AddRow({"only one"}), "check failed");
}

}  // namespace
}  // namespace phasor
