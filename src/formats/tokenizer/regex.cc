#define PCRE2_CODE_UNIT_WIDTH 8
#include "formats/tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <new>

#include "formats/printable.h"
#include "formats/utf8.h"

namespace phasor {
namespace {

// Far above what real patterns take (their choices are decided by one character); a hostile pattern
// gives up after a fraction of a second instead of days.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr std::size_t kJitStackStart = 64 * 1024, kJitStackMax = 8 * 1024 * 1024;
constexpr std::size_t kMaxPatternBytes = 64 * 1024;

// White_Space and word characters as members of a class, as Oniguruma has them (checked on every
// code point). PCRE2's own \s also holds U+180E and its own \w lacks marks.
constexpr std::string_view kSpaceSet = R"(\p{Z}\x09-\x0d\x{85})";
constexpr std::string_view kWordSet =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\xb2\xb3\xb9\xbc-\xbe\x{24b6}-\x{24e9})"
    R"(\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

// Walks a pattern once and writes its PCRE2 form.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> Run() {
    while (at_ < in_.size()) {
      char c = in_[at_];
      if (c == '\\') {
        PHASOR_RETURN_IF_ERROR(Escape());
        continue;
      }
      if (c == '[') ++class_depth_;
      if (class_depth_ > 1) return Refuse("a class inside a class");
      if (class_depth_ > 0 && in_.substr(at_, 2) == "&&") return Refuse("a class intersection");
      if (c == ']' && class_depth_ > 0) --class_depth_;
      out_ += c;
      ++at_;
    }
    return std::move(out_);
  }

 private:
  Status Refuse(const std::string& what) {
    return Unsupported("regex: expected a pattern without " + what + ", found " + Printable(in_));
  }

  Status Escape() {
    if (at_ + 1 >= in_.size()) return Refuse("a lone backslash at its end");
    char c = in_[at_ + 1];
    std::size_t start = at_;
    at_ += 2;
    switch (c) {
      case 's':
        return Set(kSpaceSet, false);
      case 'w':
        return Set(kWordSet, false);
      case 'h':
        return Set("0-9A-Fa-f", false);
      case 'S':
        return NegatedSet(kSpaceSet, "\\S");
      case 'W':
        return NegatedSet(kWordSet, "");
      case 'H':
        return NegatedSet("0-9A-Fa-f", "");
      case 'p':
      case 'P':
        return Property(c);
      default:
        out_ += in_.substr(start, 2);
        return Status::Ok();
    }
  }

  Status Set(std::string_view members, bool negated) {
    if (class_depth_ > 0) {
      out_ += members;
    } else {
      (out_ += negated ? "[^" : "[") += members;
      out_ += ']';
    }
    return Status::Ok();
  }

  Status NegatedSet(std::string_view members, std::string_view in_class) {
    if (class_depth_ == 0) return Set(members, true);
    if (in_class.empty()) return Refuse("a negated set inside a class");
    out_ += in_class;
    return Status::Ok();
  }

  // Names longer than a general category are scripts; PCRE2 would take them as script extensions.
  Status Property(char letter) {
    (out_ += '\\') += letter;
    if (at_ >= in_.size() || in_[at_] != '{') return Status::Ok();
    std::size_t close = in_.find('}', at_);
    if (close == in_.npos) return Refuse("an open property name");
    std::string_view name = in_.substr(at_ + 1, close - at_ - 1);
    bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    out_ += negated ? "{^" : "{";
    if (name.size() > 2 && name != "Any") out_ += "sc:";
    (out_ += name) += '}';
    at_ = close + 1;
    return Status::Ok();
  }

  std::string_view in_;
  std::string out_;
  std::size_t at_ = 0;
  int class_depth_ = 0;
};

}  // namespace

struct RegexScratch::Impl {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
  ~Impl() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

RegexScratch::RegexScratch() : impl_(std::make_unique<Impl>()) {
  if (impl_->data == nullptr || impl_->context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(impl_->context, kMatchLimit);
  pcre2_set_heap_limit(impl_->context, kHeapLimitKib);
  if (impl_->stack != nullptr) pcre2_jit_stack_assign(impl_->context, nullptr, impl_->stack);
}
RegexScratch::RegexScratch(RegexScratch&&) noexcept = default;
RegexScratch::~RegexScratch() = default;

struct Regex::Impl {
  pcre2_code* code = nullptr;
  std::string literal;  // when not empty, plain search takes the place of the code
  bool jit = false;
  ~Impl() { pcre2_code_free(code); }
};

Regex::Regex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.empty() || pattern.size() > kMaxPatternBytes || !IsValidUtf8(pattern)) {
    return Unsupported("regex: expected a pattern of 1 to " + std::to_string(kMaxPatternBytes) +
                       " bytes of UTF-8, found " + std::to_string(pattern.size()) + " bytes");
  }
  PHASOR_ASSIGN_OR_RETURN(std::string translated, Translator(pattern).Run());
  auto impl = std::make_unique<Impl>();
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) return ResourceExhausted("regex: out of memory");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 50);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // \C would match half a character; MULTILINE because Oniguruma's ^ and $ always mean lines.
  impl->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                             &error, &offset, context);
  pcre2_compile_context_free(context);
  if (impl->code == nullptr) {
    unsigned char message[160] = "";
    pcre2_get_error_message(error, message, sizeof(message));
    return Unsupported("regex: expected a pattern PCRE2 can read, found " + Printable(pattern) +
                       " (" + reinterpret_cast<const char*>(message) + ")");
  }
  impl->jit = pcre2_jit_compile(impl->code, PCRE2_JIT_COMPLETE) == 0;
  return Regex(std::move(impl));
}

Result<Regex> Regex::Literal(std::string_view text) {
  if (text.empty()) return Unsupported("regex: expected a text to look for, found an empty one");
  auto impl = std::make_unique<Impl>();
  impl->literal = std::string(text);
  return Regex(std::move(impl));
}

void Regex::FindAll(std::string_view text, RegexScratch* scratch,
                    std::vector<ByteSpan>* out) const {
  if (!impl_->literal.empty()) {
    const std::string& literal = impl_->literal;
    for (std::size_t at = 0; (at = text.find(literal, at)) != text.npos; at += literal.size()) {
      out->push_back({at, at + literal.size()});
    }
    return;
  }
  auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  RegexScratch::Impl& s = *scratch->impl_;
  PCRE2_SIZE* pair = pcre2_get_ovector_pointer(s.data);
  std::size_t last_end = text.npos;
  for (std::size_t at = 0; at <= text.size();) {
    int rc = impl_->jit ? pcre2_jit_match(impl_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK,
                                          s.data, s.context)
                        : PCRE2_ERROR_JIT_STACKLIMIT;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
      rc = pcre2_match(impl_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       s.data, s.context);
    }
    if (rc < 0) return;
    // A match that \K or a look-behind starts before `at` counts from there.
    std::size_t begin = std::max(pair[0], at), end = std::max(pair[1], begin);
    if (begin == end && end == last_end) {  // empty, where the last match ended: step over it
      at += at < text.size() ? Utf8Length(text[at]) : 1;
      continue;
    }
    out->push_back({begin, end});
    at = last_end = end;
  }
}

}  // namespace phasor
