#include "eval/parallel_sets.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/rng.h"

namespace phasor::eval {
namespace {

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};
constexpr int kMaxContexts = 32, kMaxItems = 16;
constexpr int kLabelsPerCase = 4;

constexpr std::array<std::string_view, 24> kAdjectives = {
    "red",   "blue",  "green", "black",  "white", "yellow", "old",    "new",
    "small", "large", "round", "square", "heavy", "light",  "bright", "dark",
    "soft",  "hard",  "warm",  "cold",   "quiet", "loud",   "clean",  "broken"};
constexpr std::array<std::string_view, 8> kLabels = {"red",  "blue",  "green", "black",
                                                     "gold", "white", "pink",  "gray"};
// Words of one kind that are hard to take for another.
constexpr int kWordsPerKind = 24;
constexpr std::array<std::array<std::string_view, kWordsPerKind>, 6> kKinds = {{
    {"dog",  "cat",   "horse",  "cow",    "pig",     "sheep", "lion",  "tiger",
     "bear", "wolf",  "fox",    "rabbit", "mouse",   "deer",  "eagle", "snake",
     "frog", "whale", "monkey", "goat",   "chicken", "duck",  "bee",   "shark"},
    {"bread", "cheese", "apple",  "banana", "rice",   "soup",  "butter", "cake",
     "meat",  "pizza",  "potato", "tomato", "carrot", "pasta", "salad",  "honey",
     "lemon", "grape",  "onion",  "cookie", "sugar",  "salt",  "milk",   "egg"},
    {"hammer", "saw",    "drill",  "wrench", "shovel", "axe",      "ladder",      "knife",
     "brush",  "needle", "chisel", "pliers", "rake",   "scissors", "screwdriver", "file",
     "clamp",  "lever",  "pump",   "wheel",  "rope",   "nail",     "bolt",        "hook"},
    {"Paris",  "London", "Berlin", "Rome",   "Madrid", "Tokyo",   "Moscow", "Vienna",
     "Athens", "Dublin", "Oslo",   "Lisbon", "Prague", "Warsaw",  "Cairo",  "Delhi",
     "Boston", "Sydney", "Lima",   "Havana", "Geneva", "Chicago", "Milan",  "Brussels"},
    {"shirt", "coat",  "hat",    "shoe",  "sock",    "dress",   "glove", "scarf",
     "belt",  "skirt", "jacket", "boot",  "sweater", "tie",     "pants", "cap",
     "suit",  "robe",  "apron",  "jeans", "vest",    "uniform", "hood",  "sandal"},
    {"piano",  "guitar",    "violin", "drum", "flute", "trumpet",  "harp",      "organ",
     "cello",  "horn",      "banjo",  "oboe", "bell",  "clarinet", "trombone",  "tuba",
     "fiddle", "saxophone", "viola",  "lute", "bass",  "whistle",  "accordion", "harmonica"},
}};

// The first n of 0, 1, ..., size - 1 in random order. n <= size.
std::vector<int> Draw(int n, int size, Rng& rng) {
  std::vector<int> all(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) all[i] = i;
  for (int i = 0; i < n; ++i) {
    std::swap(all[i], all[i + static_cast<int>(rng.Below(static_cast<uint64_t>(size - i)))]);
  }
  all.resize(static_cast<std::size_t>(n));
  return all;
}

class CaseMaker {
 public:
  CaseMaker(const Tokenizer& tokenizer, const ParallelSetOptions& options)
      : tokenizer_(tokenizer), options_(options) {}

  ParallelCase Lookup(Rng& rng) const {
    ParallelCase c;
    c.prefix = Start("Every document below lists codes. Remember them.\n");
    constexpr int kKinds0 = static_cast<int>(kKinds.size()) * kWordsPerKind;
    constexpr int kKeys = static_cast<int>(kAdjectives.size()) * kKinds0;
    const int n = options_.n_contexts * options_.n_items;
    const std::vector<int> keys = Draw(n, kKeys, rng);
    std::vector<std::string> begins, values;
    for (int i = 0; i < n; ++i) {
      const int noun = keys[i] % kKinds0;
      begins.push_back(fmt::format("The code of the {} {} is", kAdjectives[keys[i] / kKinds0],
                                   kKinds[noun / kWordsPerKind][noun % kWordsPerKind]));
      values.push_back(fmt::format(" {}", 100 + rng.Below(900)));
    }
    for (int k = 0; k < options_.n_contexts; ++k) {
      std::string text = fmt::format("\nDocument {}\n", 100 + rng.Below(900));
      for (int i = k * options_.n_items; i < (k + 1) * options_.n_items; ++i) {
        text += begins[i] + values[i] + ".\n";
      }
      c.contexts.push_back(tokenizer_.Encode(text, kPlain));
    }
    for (int i : Draw(std::min(options_.n_questions, n), n, rng)) {
      c.questions.push_back({tokenizer_.Encode("\n" + begins[i], kPlain),
                             tokenizer_.Encode(values[i], kPlain), i / options_.n_items});
    }
    return c;
  }

  ParallelCase Shots(Rng& rng) const {
    ParallelCase c;
    c.prefix = Start("Every word below has a label.\n");
    const std::vector<int> kinds = Draw(kLabelsPerCase, static_cast<int>(kKinds.size()), rng);
    const std::vector<int> labels = Draw(kLabelsPerCase, static_cast<int>(kLabels.size()), rng);
    // A quarter of every kind's words is kept for the questions.
    constexpr int kShown = kWordsPerKind * 3 / 4;
    std::vector<std::vector<int>> words;
    for (int k = 0; k < kLabelsPerCase; ++k)
      words.push_back(Draw(kWordsPerKind, kWordsPerKind, rng));
    int shown = 0;
    for (int i = 0; i < options_.n_contexts; ++i) {
      std::string text;
      for (int j = 0; j < options_.n_items; ++j, ++shown) {
        // Kinds take turns in an order of their own in every round; words come round again.
        if (shown % kLabelsPerCase == 0) order_ = Draw(kLabelsPerCase, kLabelsPerCase, rng);
        const int k = order_[shown % kLabelsPerCase];
        const int word = words[k][shown / kLabelsPerCase % kShown];
        text += fmt::format("{}: {}\n", kKinds[kinds[k]][word], kLabels[labels[k]]);
      }
      c.contexts.push_back(tokenizer_.Encode(text, kPlain));
    }
    for (int q = 0; q < options_.n_questions; ++q) {
      const int k = q % kLabelsPerCase;
      const int word = words[k][kShown + q / kLabelsPerCase % (kWordsPerKind - kShown)];
      c.questions.push_back({tokenizer_.Encode(fmt::format("{}:", kKinds[kinds[k]][word]), kPlain),
                             tokenizer_.Encode(fmt::format(" {}", kLabels[labels[k]]), kPlain), 0});
    }
    return c;
  }

 private:
  std::vector<int32_t> Start(const std::string& text) const {
    std::vector<int32_t> ids = tokenizer_.Encode(text, kPlain);
    if (tokenizer_.add_bos() && tokenizer_.bos_id() >= 0)
      ids.insert(ids.begin(), tokenizer_.bos_id());
    return ids;
  }

  const Tokenizer& tokenizer_;
  const ParallelSetOptions& options_;
  mutable std::vector<int> order_;
};

Status CheckRange(const char* what, int value, int high) {
  if (value >= 1 && value <= high) return Status::Ok();
  return InvalidArgument(
      fmt::format("parallel: {}: expected 1 to {}, found {}", what, high, value));
}

}  // namespace

Result<std::vector<ParallelCase>> MakeParallelCases(const Tokenizer& tokenizer,
                                                    const std::string& task,
                                                    const ParallelSetOptions& options) {
  const bool lookup = task == "lookup";
  if (!lookup && task != "shots") {
    return InvalidArgument("parallel: expected task lookup or shots, found \"" + task + "\"");
  }
  PHASOR_RETURN_IF_ERROR(CheckRange("cases", options.n_cases, 1 << 20));
  PHASOR_RETURN_IF_ERROR(CheckRange("contexts", options.n_contexts, kMaxContexts));
  PHASOR_RETURN_IF_ERROR(CheckRange("items", options.n_items, kMaxItems));
  PHASOR_RETURN_IF_ERROR(CheckRange("questions", options.n_questions, 1 << 10));
  const CaseMaker maker(tokenizer, options);
  std::vector<ParallelCase> cases;
  for (int i = 0; i < options.n_cases; ++i) {
    Rng rng(options.seed * 1000003 + static_cast<uint64_t>(i) * 2 + (lookup ? 0 : 1));
    cases.push_back(lookup ? maker.Lookup(rng) : maker.Shots(rng));
  }
  return cases;
}

}  // namespace phasor::eval
