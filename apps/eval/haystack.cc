#include "eval/haystack.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "base/rng.h"
#include "contracts/kv_codec.h"

namespace phasor::eval {
namespace {

// Tokens behind a stop: fewer than a page, so that no page freezes while a question is asked.
constexpr int64_t kQuestionTokens = kPageTokens - 4;
constexpr int64_t kNeedleTokens = 32;  // one needle with room to spare
constexpr std::size_t kFewestWords = 64;
constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};

// Every lower-case word of 5 to 9 letters, once, sorted: keys and values are drawn from them.
std::vector<std::string> Words(const std::string& text) {
  std::set<std::string> words;
  std::string word;
  for (const char c : text + " ") {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '\'' || c == '-') {
      word += c;
      continue;
    }
    const bool plain =
        std::all_of(word.begin(), word.end(), [](char x) { return x >= 'a' && x <= 'z'; });
    if (plain && word.size() >= 5 && word.size() <= 9) words.insert(word);
    word.clear();
  }
  return {words.begin(), words.end()};
}

struct Frame {
  std::vector<int32_t> head;  // before the text
  std::string tail;           // between question and answer, special tokens as text
};

// What is asked after a text, up to the key.
std::vector<int32_t> QuestionBeforeKey(const Tokenizer& tokenizer, const std::string& tail,
                                       bool needle) {
  std::vector<int32_t> ids = tokenizer.Encode(needle ? "\n\nWhat are the special magic numbers?"
                                                     : "\n\nWhat are the keys and their values?",
                                              kPlain);
  const auto frame = tokenizer.Encode(tail, {.add_special = false, .parse_special = true});
  ids.insert(ids.end(), frame.begin(), frame.end());
  if (needle) {
    const auto begin = tokenizer.Encode("The special magic number of", kPlain);
    ids.insert(ids.end(), begin.begin(), begin.end());
  }
  return ids;
}

// The chat template around "text, question", cut in two; a model without one gets plain text.
Result<Frame> MakeFrame(const LoadedModel& model, bool chat) {
  const Tokenizer& tokenizer = model.tokenizer();
  Frame frame;
  const std::string mark = "DOCUMENT-AND-QUESTION";
  std::string head;
  if (chat && model.chat_template() != nullptr) {
    auto piece = [&](int32_t id) { return id < 0 ? "" : tokenizer.TokenBytes(id, false); };
    PHASOR_ASSIGN_OR_RETURN(const std::string prompt,
                            model.chat_template()->Render({.messages = {{"user", mark}},
                                                           .bos_token = piece(tokenizer.bos_id()),
                                                           .eos_token = piece(tokenizer.eos_id()),
                                                           .extra_json = ""}));
    const std::size_t at = prompt.find(mark);
    if (at == std::string::npos) {
      return InvalidArgument("retrieve: expected a chat template that repeats the message");
    }
    head = prompt.substr(0, at);
    frame.tail = prompt.substr(at + mark.size());
  }
  frame.head = tokenizer.Encode(head, {.add_special = head.empty(), .parse_special = true});
  if (head.empty()) {
    frame.head.clear();
    if (tokenizer.add_bos() && tokenizer.bos_id() >= 0) frame.head = {tokenizer.bos_id()};
    frame.tail = "\n";
  }
  return frame;
}

// What all haystacks of a task have in common.
struct Recipe {
  const Tokenizer& tokenizer;
  const HaystackOptions& options;
  bool needle;
  Frame frame;
  std::vector<std::string> words;
  std::vector<int32_t> question;      // up to the key
  std::vector<int32_t> filler;        // book text; needles only
  std::map<int64_t, int64_t> length;  // tokens before the questions, by depth
};

class HaystackMaker {
 public:
  explicit HaystackMaker(Recipe recipe)
      : recipe_(std::move(recipe)),
        tokenizer_(recipe_.tokenizer),
        needle_(recipe_.needle),
        words_(recipe_.words) {}

  // `left`: cases that each depth lacks, at least one of any; the made ones are taken off.
  Haystack Make(std::map<int64_t, int64_t>* left, Rng& rng) {
    int64_t deepest = 0;
    for (const auto& [depth, n] : *left) deepest = n > 0 ? std::max(deepest, depth) : deepest;
    haystack_ = {};
    facts_.clear();
    n_used_ = 0;
    length_ = recipe_.length.at(deepest);
    haystack_.tokens = recipe_.frame.head;
    Append(needle_ ? "Some special magic numbers are hidden in this text. Remember them.\n\n"
                   : "Here is a list of keys and their values.\n\n");
    if (needle_) {
      Needles(rng);
    } else {
      while (size() < length_) AddFact(rng);
    }
    haystack_.tokens.resize(static_cast<std::size_t>(length_));
    for (auto& [depth, n] : *left) {
      if (n > 0 && depth <= deepest) n -= AddStop(depth, n, rng);
    }
    return std::move(haystack_);
  }

 private:
  int64_t size() const { return static_cast<int64_t>(haystack_.tokens.size()); }
  void Append(const std::string& text) {
    const auto ids = tokenizer_.Encode(text, kPlain);
    haystack_.tokens.insert(haystack_.tokens.end(), ids.begin(), ids.end());
  }

  // A word that this haystack has not used yet; all have been used: any word.
  std::string NewWord(Rng& rng) {
    if (n_used_ == words_.size()) n_used_ = 0;
    std::swap(words_[n_used_], words_[n_used_ + rng.Below(words_.size() - n_used_)]);
    return words_[n_used_++];
  }

  void Needles(Rng& rng) {
    const auto begin = rng.Below(recipe_.filler.size() - static_cast<std::size_t>(length_) + 1);
    const std::span<const int32_t> filler =
        std::span(recipe_.filler).subspan(begin, static_cast<std::size_t>(length_));
    std::size_t next = 0;
    auto put = [&] { haystack_.tokens.push_back(filler[next++]); };
    // Places are even, each moved to the next end of a sentence.
    for (int64_t place = size(); size() < length_; place += recipe_.options.needle_spacing) {
      const int64_t limit = place + recipe_.options.needle_spacing - kNeedleTokens;
      while (size() < std::min(place, length_)) put();
      while (size() < std::min(limit, length_) && !EndsSentence(haystack_.tokens.back())) put();
      if (size() < length_) AddFact(rng);
    }
  }

  void AddFact(Rng& rng) {
    RetrievalCase c;
    c.key = NewWord(rng);
    c.value = fmt::format("{}", 100 + rng.Below(900));
    Append(needle_ ? fmt::format(" The special magic number of {} is {}.", c.key, c.value)
                   : fmt::format("{}: {}\n", c.key, c.value));
    c.end = size();
    facts_.push_back(std::move(c));
  }

  bool EndsSentence(int32_t id) const {
    const std::string bytes = tokenizer_.TokenBytes(id, true);
    return !bytes.empty() && (bytes.back() == '.' || bytes.back() == '\n');
  }

  // Asks at most n_wanted of the facts that are frozen there, chosen at random, in the order of the
  // text. Returns how many.
  int64_t AddStop(int64_t depth, int64_t n_wanted, Rng& rng) {
    HaystackStop stop{.depth = depth, .n_tokens = recipe_.length.at(depth), .cases = {}};
    for (const RetrievalCase& c : facts_) {
      if (c.end <= stop.n_tokens - recipe_.options.n_recent) stop.cases.push_back(c);
    }
    const auto most = static_cast<std::size_t>(std::min(n_wanted, recipe_.options.n_asked));
    while (stop.cases.size() > most) {
      stop.cases.erase(stop.cases.begin() +
                       static_cast<std::ptrdiff_t>(rng.Below(stop.cases.size())));
    }
    for (RetrievalCase& c : stop.cases) Ask(&c);
    const auto n = static_cast<int64_t>(stop.cases.size());
    if (n > 0) haystack_.stops.push_back(std::move(stop));
    return n;
  }

  // Everything up to the key is the same for all questions, so that it is read once per stop. Of
  // the answer only what follows the first token with a digit is asked for: a space is no
  // knowledge.
  void Ask(RetrievalCase* c) const {
    c->question = recipe_.question;
    const auto key = tokenizer_.Encode(
        needle_ ? fmt::format(" {} is", c->key) : fmt::format("{}:", c->key), kPlain);
    c->question.insert(c->question.end(), key.begin(), key.end());
    c->answer = tokenizer_.Encode(" " + c->value, kPlain);
    const auto digits = std::find_if(c->answer.begin(), c->answer.end(), [&](int32_t id) {
      return tokenizer_.TokenBytes(id, false).find_first_of("0123456789") != std::string::npos;
    });
    c->question.insert(c->question.end(), c->answer.begin(), digits);
    c->answer.erase(c->answer.begin(), digits);
  }

  const Recipe recipe_;
  const Tokenizer& tokenizer_;
  const bool needle_;
  Haystack haystack_;
  std::vector<RetrievalCase> facts_;
  int64_t length_ = 0;
  std::vector<std::string> words_;
  std::size_t n_used_ = 0;  // the first ones of words_
};

Status CheckHaystack(const Haystack& haystack) {
  for (const HaystackStop& stop : haystack.stops) {
    for (const RetrievalCase& c : stop.cases) {
      const auto n = static_cast<int64_t>(c.question.size() + c.answer.size());
      if (n <= kQuestionTokens) continue;
      return InvalidArgument(
          fmt::format("retrieve: expected a question and answer of at most {} tokens, found {}: "
                      "the chat template or vocabulary does not suit",
                      kQuestionTokens, n));
    }
  }
  return Status::Ok();
}

// Tokens before the questions at a depth: just behind a freeze, the window holds n_recent.
Result<int64_t> LengthAt(int64_t depth, const HaystackOptions& options) {
  const int64_t fixed = options.n_sink + options.n_recent;
  if (depth - kQuestionTokens - fixed < kPageTokens) {
    return InvalidArgument(fmt::format(
        "retrieve: expected a depth of at least {} tokens (sink, 16-bit window, one page and the "
        "question), found {}",
        fixed + kPageTokens + kQuestionTokens, depth));
  }
  return fixed + (depth - kQuestionTokens - fixed) / kPageTokens * kPageTokens;
}

Result<Recipe> MakeRecipe(const LoadedModel& model, const std::string& text,
                          const std::string& task, const HaystackOptions& options) {
  if (task != "needle" && task != "kv") {
    return InvalidArgument("retrieve: expected task needle or kv, found \"" + task + "\"");
  }
  if (options.needle_spacing < 2 * kNeedleTokens) {
    return InvalidArgument(fmt::format("retrieve: expected at least {} tokens per needle, found {}",
                                       2 * kNeedleTokens, options.needle_spacing));
  }
  Recipe recipe{.tokenizer = model.tokenizer(),
                .options = options,
                .needle = task == "needle",
                .frame = {},
                .words = Words(text),
                .question = {},
                .filler = {},
                .length = {}};
  int64_t longest = 0;
  for (const int64_t depth : options.depths) {
    PHASOR_ASSIGN_OR_RETURN(recipe.length[depth], LengthAt(depth, options));
    longest = std::max(longest, recipe.length[depth]);
  }
  PHASOR_ASSIGN_OR_RETURN(recipe.frame, MakeFrame(model, options.chat));
  recipe.question = QuestionBeforeKey(model.tokenizer(), recipe.frame.tail, recipe.needle);
  if (recipe.words.size() < kFewestWords) {
    return InvalidArgument(fmt::format(
        "retrieve: expected a text with at least {} different lower-case words of 5 to 9 "
        "letters, found {}",
        kFewestWords, recipe.words.size()));
  }
  if (recipe.needle) recipe.filler = model.tokenizer().Encode(text, kPlain);
  if (recipe.needle && static_cast<int64_t>(recipe.filler.size()) < longest) {
    return InvalidArgument(fmt::format("retrieve: expected a text of at least {} tokens, found {}",
                                       longest, recipe.filler.size()));
  }
  return recipe;
}

}  // namespace

Result<std::vector<Haystack>> MakeHaystacks(const LoadedModel& model, const std::string& text,
                                            const std::string& task,
                                            const HaystackOptions& options) {
  PHASOR_ASSIGN_OR_RETURN(Recipe recipe, MakeRecipe(model, text, task, options));
  HaystackMaker maker(std::move(recipe));
  Rng rng(options.seed * 2 + (task == "needle" ? 0 : 1));
  std::map<int64_t, int64_t> left;
  for (const int64_t depth : options.depths) left[depth] = options.n_cases;
  std::vector<Haystack> haystacks;
  while (std::any_of(left.begin(), left.end(), [](const auto& d) { return d.second > 0; })) {
    haystacks.push_back(maker.Make(&left, rng));
    const Haystack& h = haystacks.back();
    PHASOR_RETURN_IF_ERROR(CheckHaystack(h));
    // The deepest stop ends the text: without it there was no fact to ask for.
    if (h.stops.empty() || h.stops.back().n_tokens != static_cast<int64_t>(h.tokens.size())) {
      return InvalidArgument(
          fmt::format("retrieve: expected depths that hold a fact outside of the window, found one "
                      "of {} tokens that holds none",
                      h.tokens.size()));
    }
  }
  return haystacks;
}

}  // namespace phasor::eval
