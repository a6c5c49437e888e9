#include "base/table.h"

#include <algorithm>
#include <cstdio>

#include "base/check.h"

namespace phasor {
namespace {

std::size_t Width(const std::string& s) {
  return static_cast<std::size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string CsvCell(const std::string& s) {
  if (s.find_first_of(",\"\n\r") == std::string::npos) return s;
  std::string out = "\"";
  for (char c : s) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::string JsonString(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof(buffer), "\\u%04x", c);
      out += buffer;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string MarkdownCell(const std::string& s) {
  std::string out;
  for (char c : s) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

void Table::AddRow(std::vector<std::string> cells) {
  PHASOR_CHECK(cells.size() == columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::RenderText(bool markdown) const {
  std::vector<std::size_t> widths;
  for (const Column& c : columns_) widths.push_back(std::max<std::size_t>(3, Width(c.name)));
  auto cell_text = [&](const std::string& s) { return markdown ? MarkdownCell(s) : s; };
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], Width(cell_text(row[i])));
    }
  }
  std::string out;
  auto line = [&](auto&& cell) {
    std::string text = markdown ? "|" : "";
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string s = cell(i);
      const std::string pad(widths[i] - std::min(widths[i], Width(s)), ' ');
      text += markdown ? " " : (i == 0 ? "" : "  ");
      text += columns_[i].align == Align::kRight ? pad + s : s + pad;
      if (markdown) text += " |";
    }
    while (!text.empty() && text.back() == ' ') text.pop_back();
    out += text + "\n";
  };
  line([&](std::size_t i) { return columns_[i].name; });
  line([&](std::size_t i) {
    std::string dashes(widths[i], '-');
    if (markdown && columns_[i].align == Align::kRight) dashes.back() = ':';
    return dashes;
  });
  for (const auto& row : rows_) line([&](std::size_t i) { return cell_text(row[i]); });
  return out;
}

std::string Table::Render(Format format) const {
  if (format == Format::kPlain || format == Format::kMarkdown) {
    return RenderText(format == Format::kMarkdown);
  }
  std::string out;
  if (format == Format::kCsv) {
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      out += (i == 0 ? "" : ",") + CsvCell(columns_[i].name);
    }
    out += "\n";
    for (const auto& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) out += (i == 0 ? "" : ",") + CsvCell(row[i]);
      out += "\n";
    }
    return out;
  }
  out = "[";
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    out += r == 0 ? "\n  {" : ",\n  {";
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      out += (i == 0 ? "" : ", ") + JsonString(columns_[i].name) + ": " + JsonString(rows_[r][i]);
    }
    out += "}";
  }
  return out + "\n]\n";
}

std::optional<Table::Format> ParseTableFormat(std::string_view name) {
  if (name == "plain") return Table::Format::kPlain;
  if (name == "md") return Table::Format::kMarkdown;
  if (name == "csv") return Table::Format::kCsv;
  if (name == "json") return Table::Format::kJson;
  return std::nullopt;
}

}  // namespace phasor
