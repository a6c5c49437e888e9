// Small result tables: one set of rows, printed as plain text, Markdown, CSV or JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace phasor {

class Table {
 public:
  enum class Align { kLeft, kRight };
  enum class Format { kPlain, kMarkdown, kCsv, kJson };
  struct Column {
    std::string name;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // One cell per column; a row of another length is a programmer error.
  void AddRow(std::vector<std::string> cells);
  // Ends with a line feed. Widths count characters (UTF-8 code points), not bytes.
  std::string Render(Format format) const;
  const std::vector<Column>& columns() const { return columns_; }
  const std::vector<std::vector<std::string>>& rows() const { return rows_; }

 private:
  std::string RenderText(bool markdown) const;
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "plain", "md", "csv" or "json".
std::optional<Table::Format> ParseTableFormat(std::string_view name);

}  // namespace phasor
