#include "engine/recall_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>

#include "base/rng.h"

namespace phasor {
namespace {

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};

// Every lower-case word of 5 to 9 letters, once, sorted.
std::vector<std::string> PlainWords(const std::string& text) {
  std::set<std::string> words;
  std::string word;
  for (const char c : text + " ") {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      word += c;
      continue;
    }
    const bool lower = std::all_of(word.begin(), word.end(), [](char x) { return x >= 'a'; });
    if (lower && word.size() >= 5 && word.size() <= 9) words.insert(word);
    word.clear();
  }
  return {words.begin(), words.end()};
}

// What is said before a number, the number, and what follows.
struct Fact {
  std::vector<int32_t> before, number, after;
  void AppendTo(std::vector<int32_t>* tokens) const {
    for (const auto* part : {&before, &number, &after}) {
      tokens->insert(tokens->end(), part->begin(), part->end());
    }
  }
  int64_t size() const {
    return static_cast<int64_t>(before.size() + number.size() + after.size());
  }
};

class Maker {
 public:
  Maker(const Tokenizer& tokenizer, std::vector<std::string> words, std::vector<int32_t> prose,
        const RecallTextOptions& options)
      : tokenizer_(tokenizer),
        words_(std::move(words)),
        prose_(std::move(prose)),
        options_(options),
        rng_(options.seed) {}

  Result<RecallText> Make() {
    std::vector<Fact> sentences, lines;
    auto& tokens = out_.tokens;
    if (tokenizer_.add_bos() && tokenizer_.bos_id() >= 0) tokens.push_back(tokenizer_.bos_id());
    for (int i = 0; i < options_.n_listed; ++i) lines.push_back(Line());
    int64_t list = 0;
    for (const Fact& line : lines) list += line.size();
    // Sentences in the first part, the list of lines, and prose that fills the 16-bit window.
    const int64_t end_of_list = options_.n_context - kWindow;
    while (size() + options_.spacing + list < end_of_list) {
      Prose(options_.spacing);
      sentences.push_back(Sentence());
      sentences.back().AppendTo(&tokens);
    }
    if (sentences.empty()) {
      return InvalidArgument(
          fmt::format("recall: expected a context of at least {} tokens, found {}",
                      size() + 2 * options_.spacing + list + kWindow, options_.n_context));
    }
    Prose(end_of_list - list - size());
    for (const Fact& line : lines) line.AppendTo(&tokens);
    Prose(options_.n_context - size());
    out_.n_context = size();
    for (int64_t i = 0; i + 1 < options_.n_prose; ++i) out_.prose.push_back(size() + i);
    Prose(options_.n_prose);
    Repeat(sentences, options_.n_sentences);
    Repeat(lines, options_.n_lines);
    return std::move(out_);
  }

 private:
  static constexpr int64_t kWindow = 256;  // more than the newest tokens that stay in 16 bit

  int64_t size() const { return static_cast<int64_t>(out_.tokens.size()); }
  void Prose(int64_t n) {
    for (; n > 0; --n) out_.tokens.push_back(prose_[next_++]);
  }
  std::string NewWord() {
    std::swap(words_[n_used_], words_[n_used_ + rng_.Below(words_.size() - n_used_)]);
    return words_[n_used_++];
  }
  std::vector<int32_t> Number() {
    return tokenizer_.Encode(fmt::format(" {}", 100 + rng_.Below(900)), kPlain);
  }
  Fact Sentence() {
    return {tokenizer_.Encode(fmt::format(" The {} was number", NewWord()), kPlain), Number(),
            tokenizer_.Encode(".", kPlain)};
  }
  Fact Line() {
    return {tokenizer_.Encode(fmt::format("{} =", NewWord()), kPlain), Number(),
            tokenizer_.Encode("\n", kPlain)};
  }
  void Repeat(std::vector<Fact> facts, int n) {
    const auto newline = tokenizer_.Encode("\n", kPlain);
    out_.tokens.insert(out_.tokens.end(), newline.begin(), newline.end());
    for (std::size_t i = 0; i < std::min<std::size_t>(facts.size(), n); ++i) {
      std::swap(facts[i], facts[i + rng_.Below(facts.size() - i)]);
      const int64_t first = size() + static_cast<int64_t>(facts[i].before.size()) - 1;
      for (std::size_t k = 0; k < facts[i].number.size(); ++k) out_.recall.push_back(first + k);
      facts[i].AppendTo(&out_.tokens);
    }
  }

  const Tokenizer& tokenizer_;
  std::vector<std::string> words_;
  const std::vector<int32_t> prose_;
  const RecallTextOptions& options_;
  Rng rng_;
  RecallText out_;
  std::size_t n_used_ = 0, next_ = 0;
};

}  // namespace

Result<RecallText> MakeRecallText(const Tokenizer& tokenizer, const std::string& text,
                                  const RecallTextOptions& options) {
  std::vector<std::string> words = PlainWords(text);
  const auto n_facts =
      static_cast<std::size_t>(options.n_context / options.spacing + 1 + options.n_listed);
  if (words.size() < n_facts) {
    return InvalidArgument(fmt::format(
        "recall: expected a text with at least {} different lower-case words of 5 to 9 letters, "
        "found {}",
        n_facts, words.size()));
  }
  std::vector<int32_t> prose = tokenizer.Encode(text, kPlain);
  const int64_t n_prose = options.n_context + options.n_prose;
  if (static_cast<int64_t>(prose.size()) < n_prose) {
    return InvalidArgument(fmt::format("recall: expected a text of at least {} tokens, found {}",
                                       n_prose, prose.size()));
  }
  return Maker(tokenizer, std::move(words), std::move(prose), options).Make();
}

}  // namespace phasor
