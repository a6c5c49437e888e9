// Patterns of tokenizer files, run by PCRE2.
//
// The files are written for Oniguruma; Compile translates what the two read differently (\s, \w,
// \h, script names, line anchors) and refuses what it cannot (class intersections). The Unicode
// tables are PCRE2's: characters newer than those count as unassigned.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "phasor/status.h"

namespace phasor {

struct ByteSpan {
  std::size_t begin = 0, end = 0;
};

// Memory for one thread's matching; Regex itself is immutable and can be shared by threads.
class RegexScratch {
 public:
  RegexScratch();
  RegexScratch(RegexScratch&&) noexcept;
  ~RegexScratch();

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Regex {
 public:
  // kUnsupported when the pattern cannot be read; the message holds the reason.
  static Result<Regex> Compile(std::string_view oniguruma_pattern);
  // A pattern that matches exactly `text`.
  static Result<Regex> Literal(std::string_view text);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Appends every match, left to right, in `text`, which must be valid UTF-8; an empty one only
  // where no match just ended. Matching stops early
  // when a hostile pattern passes PCRE2's limits: what follows then counts as not matched.
  void FindAll(std::string_view text, RegexScratch* scratch, std::vector<ByteSpan>* out) const;

 private:
  struct Impl;
  explicit Regex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace phasor
