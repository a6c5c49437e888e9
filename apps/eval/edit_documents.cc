#include "eval/edit_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/rng.h"

namespace phasor::eval {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFileBytes = 4 << 20;

bool Hidden(const fs::path& path) { return path.filename().string().front() == '.'; }

// Files to read, with the names they go by in the text.
Result<std::vector<std::pair<std::string, std::string>>> ListFiles(
    const std::vector<std::string>& paths) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const std::string& path : paths) {
    if (FileExists(path) && !IsDirectory(path)) {
      files.push_back({path, fs::path(path).filename().string()});
      continue;
    }
    std::error_code ec;
    fs::recursive_directory_iterator it(path, ec);
    if (ec) return NotFound("edit: " + path + ": expected a file or a folder, found none");
    std::vector<std::pair<std::string, std::string>> found;
    for (; it != fs::recursive_directory_iterator(); it.increment(ec)) {
      if (ec) return NotFound("edit: " + path + ": " + ec.message());
      if (Hidden(it->path())) {
        it.disable_recursion_pending();
      } else if (it->is_regular_file(ec) && it->file_size(ec) <= kMaxFileBytes) {
        found.push_back({it->path().string(), fs::relative(it->path(), path, ec).string()});
      }
    }
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

// A token begins a line where it starts with a line feed or follows one that only ends with it:
// tokenizers do either.
void MarkLines(const Tokenizer& tokenizer, int64_t first, SourceText* out) {
  bool last_ended = true;
  for (auto i = first; i < static_cast<int64_t>(out->tokens.size()); ++i) {
    const std::string bytes = tokenizer.TokenBytes(out->tokens[i], true);
    const bool starts = !bytes.empty() && bytes.front() == '\n';
    if (starts || last_ended) out->lines.push_back(i);
    last_ended = !starts && bytes.find('\n') != std::string::npos;
  }
}

class Maker {
 public:
  Maker(const SourceText& source, const EditDocumentOptions& options)
      : source_(source), options_(options), rng_(options.seed) {}

  Result<EditDocument> Make(int64_t start) {
    start_ = start;
    limit_ = start + options_.n_tokens - (options_.bos >= 0 ? 1 : 0);
    const auto& lines = source_.lines;
    end_line_ = std::upper_bound(lines.begin(), lines.end(), limit_) - lines.begin() - 1;
    first_line_ = std::lower_bound(lines.begin(), lines.end(), start) - lines.begin();
    if (end_line_ - first_line_ < 2 * (options_.max_lines + 1)) {
      return InvalidArgument(fmt::format("edit: expected documents of at least {} lines, found {}",
                                         2 * (options_.max_lines + 1), end_line_ - first_line_));
    }
    const int64_t end = lines[end_line_];
    limit_ = end + options_.n_continuation;
    EditDocument d;
    if (options_.bos >= 0) d.tokens.push_back(options_.bos);
    d.tokens.insert(d.tokens.end(), source_.tokens.begin() + start, source_.tokens.begin() + end);
    d.continuation.assign(source_.tokens.begin() + end, source_.tokens.begin() + limit_);
    for (const double depth : options_.depths) {
      for (const std::string& kind : options_.kinds) {
        PHASOR_ASSIGN_OR_RETURN(SourceEdit edit, MakeEdit(kind, depth));
        d.edits.push_back(std::move(edit));
      }
    }
    return d;
  }

  Rng& rng() { return rng_; }

 private:
  std::vector<int32_t> Lines(int64_t line, int64_t n) const {
    return {source_.tokens.begin() + source_.lines[line],
            source_.tokens.begin() + source_.lines[line + n]};
  }

  // n lines that lie outside of the document and its continuation.
  Result<std::vector<int32_t>> Elsewhere(int64_t n) {
    constexpr int kTries = 1000;
    const auto n_lines = static_cast<int64_t>(source_.lines.size());
    for (int i = 0; i < kTries; ++i) {
      const auto line = static_cast<int64_t>(rng_.Below(n_lines - n));
      if (source_.lines[line + n] <= start_ || source_.lines[line] >= limit_) return Lines(line, n);
    }
    return InvalidArgument(
        "edit: expected a source several times as long as a document, to take other lines from");
  }

  Result<SourceEdit> MakeEdit(const std::string& kind, double depth) {
    const auto& lines = source_.lines;
    const int64_t end = lines[end_line_];
    const auto target = start_ + static_cast<int64_t>(depth * static_cast<double>(end - start_));
    const int64_t n = 1 + static_cast<int64_t>(rng_.Below(options_.max_lines));
    int64_t line = std::lower_bound(lines.begin(), lines.end(), target) - lines.begin();
    // At least one line stays before the edit and one behind it.
    line = std::clamp(line, first_line_ + 1, end_line_ - n - 1);
    SourceEdit edit{.kind = kind, .depth = depth, .at = 0, .before = {}, .after = {}};
    edit.at = lines[line] - start_ + (options_.bos >= 0 ? 1 : 0);
    if (kind != "insert") {
      PHASOR_ASSIGN_OR_RETURN(edit.before, Elsewhere(n));
    }
    if (kind != "delete") edit.after = Lines(line, n);
    return edit;
  }

  const SourceText& source_;
  const EditDocumentOptions& options_;
  Rng rng_;
  int64_t start_ = 0, limit_ = 0;          // tokens of the document and its continuation
  int64_t first_line_ = 0, end_line_ = 0;  // indices into source_.lines
};

}  // namespace

Result<SourceText> ReadSources(const Tokenizer& tokenizer, const std::vector<std::string>& paths) {
  PHASOR_ASSIGN_OR_RETURN(const auto files, ListFiles(paths));
  SourceText out;
  for (const auto& [path, name] : files) {
    PHASOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
    if (text.empty() || text.find('\0') != std::string::npos) continue;
    const auto first = static_cast<int64_t>(out.tokens.size());
    const auto ids =
        tokenizer.Encode("// " + name + "\n" + text + (text.back() == '\n' ? "" : "\n"),
                         {.add_special = false, .parse_special = false});
    out.files.push_back(first);
    out.tokens.insert(out.tokens.end(), ids.begin(), ids.end());
    MarkLines(tokenizer, first, &out);
  }
  if (out.tokens.empty()) {
    return NotFound(fmt::format("edit: {}: expected text files, found none",
                                fmt::format("{}", fmt::join(paths, ", "))));
  }
  return out;
}

Result<std::vector<EditDocument>> MakeEditDocuments(const SourceText& source,
                                                    const EditDocumentOptions& options) {
  for (const std::string& kind : options.kinds) {
    if (kind != "insert" && kind != "delete" && kind != "replace") {
      return InvalidArgument("edit: expected insert, delete or replace, found \"" + kind + "\"");
    }
  }
  const int64_t needed = options.n_tokens + options.n_continuation;
  std::vector<int64_t> starts;
  for (const int64_t file : source.files) {
    if (file + needed <= static_cast<int64_t>(source.tokens.size())) starts.push_back(file);
  }
  if (starts.empty()) {
    return InvalidArgument(fmt::format("edit: expected a source of at least {} tokens, found {}",
                                       needed, source.tokens.size()));
  }
  Maker maker(source, options);
  std::vector<EditDocument> documents;
  std::vector<int64_t> left;
  for (int i = 0; i < options.n_documents; ++i) {
    // Every file is taken once before any is taken again.
    if (left.empty()) left = starts;
    std::swap(left[maker.rng().Below(left.size())], left.back());
    PHASOR_ASSIGN_OR_RETURN(EditDocument d, maker.Make(left.back()));
    left.pop_back();
    documents.push_back(std::move(d));
  }
  return documents;
}

}  // namespace phasor::eval
