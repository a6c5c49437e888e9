#include "eval/retrieval.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/rng.h"
#include "base/table.h"
#include "contracts/kv_codec.h"
#include "ops/vector_ops.h"

namespace phasor::eval {
namespace {

// Tokens behind the document: fewer than a page, so that no page freezes while a question is asked.
constexpr int64_t kQuestionTokens = kPageTokens - 4;
constexpr int kKeysAsked = 32;            // of one list, at most
constexpr int64_t kTokensPerNeedle = 64;  // at least, so that most of the text is filler
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
  std::vector<int32_t> head;  // before the document
  std::string tail;           // between question and answer, special tokens as text
};

// The chat template around "document, question", cut in two; a model without one gets plain text.
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

class DocumentMaker {
 public:
  DocumentMaker(const Tokenizer& tokenizer, const Frame& frame, std::vector<std::string> words,
                bool needle, int64_t length, int64_t n_recent)
      : tokenizer_(tokenizer),
        frame_(frame),
        needle_(needle),
        length_(length),
        last_fact_end_(length - n_recent),
        words_(std::move(words)) {}

  // `filler`: book text of at least length_ tokens; needles only.
  RetrievalDocument Make(std::span<const int32_t> filler, int n_cases, Rng& rng) {
    document_ = {};
    n_used_ = 0;
    document_.tokens = frame_.head;
    Append(needle_ ? "Some special magic numbers are hidden in this text. Remember them.\n\n"
                   : "Here is a list of keys and their values.\n\n");
    if (needle_) {
      Needles(filler, n_cases, rng);
    } else {
      Lines(rng);
    }
    document_.tokens.resize(static_cast<std::size_t>(length_));
    Keep(n_cases, rng);
    for (RetrievalCase& c : document_.cases) Ask(&c);
    return std::move(document_);
  }

 private:
  void Append(const std::string& text) {
    const auto ids = tokenizer_.Encode(text, kPlain);
    document_.tokens.insert(document_.tokens.end(), ids.begin(), ids.end());
  }
  int64_t size() const { return static_cast<int64_t>(document_.tokens.size()); }

  // A word that this document has not used yet; all have been used: any word.
  std::string NewWord(Rng& rng) {
    if (n_used_ == words_.size()) n_used_ = 0;
    std::swap(words_[n_used_], words_[n_used_ + rng.Below(words_.size() - n_used_)]);
    return words_[n_used_++];
  }

  RetrievalCase NewFact(Rng& rng) {
    RetrievalCase c;
    c.key = NewWord(rng);
    c.value = fmt::format("{}", 100 + rng.Below(900));
    return c;
  }

  void Needles(std::span<const int32_t> filler, int n, Rng& rng) {
    const int64_t first = size(), span = last_fact_end_ - first;
    std::size_t next = 0;
    for (int i = 0; i < n; ++i) {
      // The places are even shares of what is frozen, moved to the next end of a sentence.
      const int64_t place = first + span * i / n;
      const int64_t limit = first + span * (i + 1) / n - kTokensPerNeedle / 2;
      while (size() < place && next < filler.size()) {
        document_.tokens.push_back(filler[next++]);
      }
      while (size() < limit && next < filler.size() && !EndsSentence(document_.tokens.back())) {
        document_.tokens.push_back(filler[next++]);
      }
      AddFact(NewFact(rng));
    }
    while (size() < length_ && next < filler.size()) document_.tokens.push_back(filler[next++]);
  }

  void Lines(Rng& rng) {
    while (size() < length_) AddFact(NewFact(rng));
  }

  void AddFact(RetrievalCase c) {
    Append(needle_ ? fmt::format(" The special magic number of {} is {}.", c.key, c.value)
                   : fmt::format("{}: {}\n", c.key, c.value));
    c.end = size();
    if (c.end <= last_fact_end_) document_.cases.push_back(std::move(c));
  }

  bool EndsSentence(int32_t id) const {
    const std::string bytes = tokenizer_.TokenBytes(id, true);
    return !bytes.empty() && (bytes.back() == '.' || bytes.back() == '\n');
  }

  // At most n of the cases, chosen at random, in the order of the text.
  void Keep(int n, Rng& rng) {
    auto& cases = document_.cases;
    while (static_cast<int>(cases.size()) > n) {
      cases.erase(cases.begin() + static_cast<std::ptrdiff_t>(rng.Below(cases.size())));
    }
  }

  void Ask(RetrievalCase* c) const {
    c->question = tokenizer_.Encode(
        needle_ ? fmt::format("\n\nWhat is the special magic number of {}?", c->key)
                : fmt::format("\n\nWhat is the value of the key {}?", c->key),
        kPlain);
    const auto tail = tokenizer_.Encode(frame_.tail, {.add_special = false, .parse_special = true});
    const auto begin = tokenizer_.Encode(
        needle_ ? fmt::format("The special magic number of {} is", c->key) : c->key + ":", kPlain);
    c->question.insert(c->question.end(), tail.begin(), tail.end());
    c->question.insert(c->question.end(), begin.begin(), begin.end());
    c->answer = tokenizer_.Encode(" " + c->value, kPlain);
  }

  const Tokenizer& tokenizer_;
  const Frame& frame_;
  const bool needle_;
  const int64_t length_, last_fact_end_;
  RetrievalDocument document_;
  std::vector<std::string> words_;
  std::size_t n_used_ = 0;  // the first ones of words_
};

struct CaseResult {
  bool exact = true;
  double logprob = 0;
  void Add(std::span<const float> logits, int32_t target) {
    exact = exact && std::max_element(logits.begin(), logits.end()) - logits.begin() == target;
    logprob += logits[target] - LogSumExp(logits.data(), static_cast<int64_t>(logits.size()));
  }
};

class Runner {
 public:
  Runner(const LoadedModel& model, const RetrievalOptions& options, int64_t total)
      : model_(model), options_(options), total_(total) {}

  // One result per case, in order. *bits: of frozen pages.
  Result<std::vector<CaseResult>> Run(const std::vector<RetrievalDocument>& documents,
                                      const CacheTypes& types, int64_t depth, double* bits) {
    SessionOptions session_options = options_.session;
    session_options.type_k = types.k;
    session_options.type_v = types.v;
    session_options.n_ctx = depth;
    PHASOR_ASSIGN_OR_RETURN(auto session, Session::Create(model_, session_options));
    std::vector<CaseResult> results;
    for (const RetrievalDocument& d : documents) {
      session->Clear();
      PHASOR_RETURN_IF_ERROR(Append(*session, d.tokens, nullptr));
      *bits = session->cache_stats().page_bits_per_element;
      for (const RetrievalCase& c : d.cases) {
        PHASOR_ASSIGN_OR_RETURN(CaseResult r, Case(*session, c));
        results.push_back(r);
        PHASOR_RETURN_IF_ERROR(session->Truncate(static_cast<int64_t>(d.tokens.size())));
      }
    }
    return results;
  }

 private:
  Result<CaseResult> Case(Session& session, const RetrievalCase& c) {
    CaseResult result;
    PHASOR_RETURN_IF_ERROR(Append(session, c.question, nullptr));
    result.Add(session.logits(), c.answer[0]);
    if (c.answer.size() > 1) {
      PHASOR_RETURN_IF_ERROR(Append(session, {c.answer.data(), c.answer.size() - 1},
                                    [&](int64_t i, std::span<const float> logits) {
                                      result.Add(logits, c.answer[static_cast<std::size_t>(i) + 1]);
                                    }));
    }
    return result;
  }

  Status Append(Session& session, std::span<const int32_t> tokens,
                std::function<void(int64_t, std::span<const float>)> on_logits) {
    AppendOptions append;
    append.cancel = options_.cancel;
    append.on_logits = std::move(on_logits);
    // Questions and answers as decode sees them, documents as prefill does.
    append.score_codes = static_cast<int64_t>(tokens.size()) < kPageTokens;
    append.on_progress = [&](int64_t done, int64_t) {
      if (options_.on_progress) options_.on_progress(std::min(total_, done_ + done), total_);
    };
    PHASOR_RETURN_IF_ERROR(session.Append(tokens, append));
    done_ += static_cast<int64_t>(tokens.size());
    return Status::Ok();
  }

  const LoadedModel& model_;
  const RetrievalOptions& options_;
  const int64_t total_;
  int64_t done_ = 0;
};

Json Summarize(const std::vector<CaseResult>& results, const std::vector<CaseResult>& base) {
  int64_t right = 0, base_right = 0, both = 0;
  double logprob = 0, base_logprob = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    right += results[i].exact ? 1 : 0;
    base_right += base[i].exact ? 1 : 0;
    both += results[i].exact && base[i].exact ? 1 : 0;
    logprob += results[i].logprob;
    base_logprob += base[i].logprob;
  }
  const auto n = static_cast<double>(results.size());
  Json j = {{"cases", results.size()},
            {"exact", static_cast<double>(right) / n},
            {"logprob", logprob / n},
            {"f16_exact", static_cast<double>(base_right) / n},
            {"f16_logprob", base_logprob / n},
            {"agreement", nullptr},
            {"ratio", nullptr}};
  if (base_right > 0) {
    j["agreement"] = static_cast<double>(both) / static_cast<double>(base_right);
    j["ratio"] = static_cast<double>(right) / static_cast<double>(base_right);
  }
  return j;
}

int64_t CountTokens(const std::vector<RetrievalDocument>& documents) {
  int64_t n = 0;
  for (const RetrievalDocument& d : documents) {
    n += static_cast<int64_t>(d.tokens.size());
    for (const RetrievalCase& c : d.cases) {
      n += static_cast<int64_t>(c.question.size() + c.answer.size()) - 1;
    }
  }
  return n;
}

Status CheckDocument(const RetrievalDocument& d, int64_t depth) {
  if (d.cases.empty()) {
    return InvalidArgument(fmt::format(
        "retrieve: expected a depth that holds a fact outside of the window, found {}", depth));
  }
  for (const RetrievalCase& c : d.cases) {
    const auto n = static_cast<int64_t>(c.question.size() + c.answer.size());
    if (n <= kQuestionTokens) continue;
    return InvalidArgument(
        fmt::format("retrieve: expected a question and answer of at most {} tokens, found {}: the "
                    "chat template or vocabulary does not suit",
                    kQuestionTokens, n));
  }
  return Status::Ok();
}

}  // namespace

Result<std::vector<RetrievalDocument>> MakeRetrievalDocuments(const LoadedModel& model,
                                                              const std::string& text,
                                                              const std::string& task,
                                                              int64_t depth,
                                                              const RetrievalOptions& options) {
  if (task != "needle" && task != "kv") {
    return InvalidArgument("retrieve: expected task needle or kv, found \"" + task + "\"");
  }
  const int64_t fixed = options.session.n_sink + options.session.n_recent;
  const int64_t n_pages = (depth - kQuestionTokens - fixed) / kPageTokens;
  if (depth - kQuestionTokens - fixed < kPageTokens) {
    return InvalidArgument(fmt::format(
        "retrieve: expected a depth of at least {} tokens (sink, 16-bit window, one page and the "
        "question), found {}",
        fixed + kPageTokens + kQuestionTokens, depth));
  }
  // Just behind a freeze: the window holds n_recent tokens.
  const int64_t length = fixed + n_pages * kPageTokens;
  const bool needle = task == "needle";
  PHASOR_ASSIGN_OR_RETURN(const Frame frame, MakeFrame(model, options.chat));
  std::vector<std::string> words = Words(text);
  if (words.size() < kFewestWords) {
    return InvalidArgument(fmt::format(
        "retrieve: expected a text with at least {} different lower-case words of 5 to 9 "
        "letters, found {}",
        kFewestWords, words.size()));
  }
  std::vector<int32_t> filler;
  if (needle) filler = model.tokenizer().Encode(text, kPlain);
  if (needle && static_cast<int64_t>(filler.size()) < length) {
    return InvalidArgument(fmt::format("retrieve: expected a text of at least {} tokens, found {}",
                                       length, filler.size()));
  }
  const int64_t frozen = n_pages * kPageTokens;
  const auto per_document = static_cast<int>(std::min<int64_t>(
      needle ? options.n_needles : kKeysAsked, std::max<int64_t>(1, frozen / kTokensPerNeedle)));
  DocumentMaker maker(model.tokenizer(), frame, std::move(words), needle, length,
                      options.session.n_recent);
  Rng rng(options.seed * 1000003 + static_cast<uint64_t>(depth) * 2 + (needle ? 0 : 1));
  std::vector<RetrievalDocument> documents;
  for (int64_t left = options.n_cases; left > 0;) {
    std::span<const int32_t> stretch;
    if (needle) {
      const auto begin = rng.Below(filler.size() - static_cast<std::size_t>(length) + 1);
      stretch = std::span(filler).subspan(begin, static_cast<std::size_t>(length));
    }
    documents.push_back(
        maker.Make(stretch, static_cast<int>(std::min<int64_t>(left, per_document)), rng));
    const RetrievalDocument& d = documents.back();
    PHASOR_RETURN_IF_ERROR(CheckDocument(d, depth));
    left -= static_cast<int64_t>(d.cases.size());
  }
  return documents;
}

Result<Json> EvaluateRetrieval(const LoadedModel& model, const std::string& text,
                               const RetrievalOptions& options) {
  std::vector<CacheTypes> types = {{"f16", "f16"}};
  for (const CacheTypes& t : options.types) {
    if (t.k != "f16" || t.v != "f16") types.push_back(t);
  }
  struct Part {
    std::string task;
    int64_t depth;
    std::vector<RetrievalDocument> documents;
  };
  std::vector<Part> parts;
  int64_t total = 0;
  for (const std::string& task : options.tasks) {
    for (const int64_t depth : options.depths) {
      PHASOR_ASSIGN_OR_RETURN(auto documents,
                              MakeRetrievalDocuments(model, text, task, depth, options));
      total += CountTokens(documents) * static_cast<int64_t>(types.size());
      parts.push_back({task, depth, std::move(documents)});
    }
  }
  Runner runner(model, options, total);
  Json out = Json::array();
  for (const Part& part : parts) {
    std::vector<CaseResult> base;
    for (const CacheTypes& t : types) {
      double bits = 0;
      PHASOR_ASSIGN_OR_RETURN(const auto results, runner.Run(part.documents, t, part.depth, &bits));
      if (base.empty()) base = results;
      Json j = {{"task", part.task},
                {"depth", part.depth},
                {"type_k", t.k},
                {"type_v", t.v},
                {"page_bits_per_element", bits}};
      j.update(Summarize(results, base));
      out.push_back(std::move(j));
    }
  }
  return out;
}

std::string RenderRetrievalTable(const Json& results, const std::string& format) {
  using Align = Table::Align;
  Table table({{"task", Align::kLeft},
               {"depth", Align::kRight},
               {"-ctk", Align::kLeft},
               {"-ctv", Align::kLeft},
               {"bits", Align::kRight},
               {"cases", Align::kRight},
               {"exact", Align::kRight},
               {"log prob", Align::kRight},
               {"right where f16 is", Align::kRight},
               {"exact / f16", Align::kRight}});
  for (const Json& r : results) {
    auto share = [&](const char* key) {
      return r[key].is_null() ? std::string("-") : fmt::format("{:.4f}", r[key].get<double>());
    };
    table.AddRow({r["task"], r["depth"].dump(), r["type_k"], r["type_v"],
                  fmt::format("{:.2f}", r["page_bits_per_element"].get<double>()),
                  r["cases"].dump(), share("exact"), share("logprob"), share("agreement"),
                  share("ratio")});
  }
  return table.Render(*ParseTableFormat(format));
}

}  // namespace phasor::eval
