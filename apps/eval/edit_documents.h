// Source texts with edits inside: what `phasor eval edit` reads.
//
// A document is a stretch of a source tree. Every edit of it leads from another text to the same
// edited text, so one fresh reading is the yardstick for all of them: an insertion starts from the
// text without some lines, a deletion from the text with lines of another place in between, a
// replacement from the text with lines of another place instead of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "phasor/status.h"

namespace phasor::eval {

// All files as one sequence of tokens, each file behind a comment line with its path.
struct SourceText {
  std::vector<int32_t> tokens;
  std::vector<int64_t> lines;  // indices of tokens that begin a line, ascending
  std::vector<int64_t> files;  // likewise of tokens that begin a file
};

// Files, and the text files below folders in order of their paths. Names with a leading dot and
// files with a zero byte are left out. kNotFound: a path that is not there, or no text at all.
Result<SourceText> ReadSources(const Tokenizer& tokenizer, const std::vector<std::string>& paths);

struct SourceEdit {
  std::string kind;                    // "insert", "delete", "replace"
  double depth = 0;                    // wanted, as a share of the text
  int64_t at = 0;                      // index of the edit's first token, in both texts
  std::vector<int32_t> before, after;  // what stood there, and what comes there; not both empty
};

struct EditDocument {
  std::vector<int32_t> tokens;        // the edited text; it ends where a line ends
  std::vector<int32_t> continuation;  // what follows in the source
  std::vector<SourceEdit> edits;
};

struct EditDocumentOptions {
  int64_t n_tokens = 2048;  // of a document, at most; it ends at the end of a line
  int64_t n_continuation = 64;
  int n_documents = 4;
  std::vector<double> depths = {0.5, 0.9};
  std::vector<std::string> kinds = {"insert", "delete", "replace"};
  int max_lines = 3;  // of one edit: 1 to this many, drawn evenly
  int32_t bos = -1;   // first token of every document, or none
  uint64_t seed = 1;  // of the files, the lengths and the lines that are taken from elsewhere
};

// kInvalidArgument: an unknown kind, a source that is too short.
Result<std::vector<EditDocument>> MakeEditDocuments(const SourceText& source,
                                                    const EditDocumentOptions& options);

}  // namespace phasor::eval
