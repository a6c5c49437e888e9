#include "formats/tokenizer/normalizer.h"

#include "formats/utf8.h"

namespace phasor {
namespace {

std::string ReplaceAll(std::string_view text, const Regex& pattern, const std::string& content,
                       RegexScratch* scratch) {
  std::vector<ByteSpan> matches;
  pattern.FindAll(text, scratch, &matches);
  std::string out;
  out.reserve(text.size() + matches.size() * content.size());
  std::size_t done = 0;
  for (const ByteSpan& match : matches) {
    (out += text.substr(done, match.begin - done)) += content;
    done = match.end;
  }
  return out += text.substr(done);
}

std::string_view StripSpace(std::string_view text, bool left, bool right) {
  std::size_t first = text.size(), last = 0;  // of what is not space
  for (std::size_t i = 0; i < text.size();) {
    std::size_t next = i + Utf8Length(text[i]);
    if (!IsUnicodeSpace(DecodeUtf8(text, i))) {
      if (first == text.size()) first = i;
      last = next;
    }
    i = next;
  }
  std::size_t begin = left ? first : 0, end = right ? last : text.size();
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

}  // namespace

void Normalizer::AddForm(NormalForm form) {
  steps_.emplace_back();
  steps_.back().form = form;
}

void Normalizer::AddReplace(Regex pattern, std::string content) {
  steps_.emplace_back();
  steps_.back().kind = Step::kReplace;
  steps_.back().pattern = std::make_unique<Regex>(std::move(pattern));
  steps_.back().text = std::move(content);
}

void Normalizer::AddPrepend(std::string text) {
  steps_.emplace_back();
  steps_.back().kind = Step::kPrepend;
  steps_.back().text = std::move(text);
}

void Normalizer::AddStrip(bool left, bool right) {
  steps_.emplace_back();
  steps_.back().kind = Step::kStrip;
  steps_.back().left = left;
  steps_.back().right = right;
}

std::string_view Normalizer::Apply(std::string_view text, bool section_start, RegexScratch* scratch,
                                   std::string* storage) const {
  for (const Step& step : steps_) {
    std::string next;
    switch (step.kind) {
      case Step::kForm:
        next = Normalize(text, step.form);
        break;
      case Step::kReplace:
        next = ReplaceAll(text, *step.pattern, step.text, scratch);
        break;
      case Step::kPrepend:
        if (section_start && !text.empty()) next = step.text;
        next += text;
        break;
      case Step::kStrip:
        next = std::string(StripSpace(text, step.left, step.right));
        break;
    }
    *storage = std::move(next);
    text = *storage;
  }
  return text;
}

}  // namespace phasor
