// The text as the vocabulary expects it: the normalizer part of a tokenizer.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer/regex.h"
#include "formats/unicode.h"
#include "phasor/status.h"

namespace phasor {

// Steps in order; no steps: the text stays as it is.
class Normalizer {
 public:
  void AddForm(NormalForm form);
  void AddReplace(Regex pattern, std::string content);
  // Put in front of a section of text that is not empty.
  void AddPrepend(std::string text);
  // White space at the ends.
  void AddStrip(bool left, bool right);

  bool empty() const { return steps_.empty(); }
  // `text` is valid UTF-8. Prepending happens only with `section_start` (unset behind damaged
  // bytes, which cut a section in the middle). A copy made on the way is kept in `storage`, which
  // the result may point into.
  std::string_view Apply(std::string_view text, bool section_start, RegexScratch* scratch,
                         std::string* storage) const;

 private:
  struct Step {
    enum Kind { kForm, kReplace, kPrepend, kStrip } kind = kForm;
    NormalForm form = NormalForm::kNfc;
    std::unique_ptr<Regex> pattern;  // of kReplace
    std::string text;                // what kReplace and kPrepend put in
    bool left = false, right = false;
  };
  std::vector<Step> steps_;
};

}  // namespace phasor
