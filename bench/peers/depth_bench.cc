// Speed of llama.cpp or ik_llama.cpp behind a filled cache, without computing a long prefill.
//
// Compiled by build_depth_bench.sh against the headers and libraries of an existing build of either
// project; no part of phasor's own build. Prints one JSON line per measure in llama-bench's field
// names.
//
// The cache is filled by the peer's own means: the first tokens (at most 512) are really computed;
// the saved state of that sequence is then loaded again and again under another sequence number,
// and its cells are given to sequence 0. So every cell holds codes that the peer itself made, all
// of them are visible to the tokens decoded next, and the work of attention is that of the full
// depth. Only their positions repeat, which the time of a step does not depend on. --fill prefill
// computes all tokens instead, to check that.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ggml.h"
#include "llama.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUpSteps = 2;
constexpr int kMostCopied = 512;  // tokens that are really computed before states are copied

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "depth-bench: %s\n", message.c_str());
  std::exit(1);
}

struct Options {
  std::string model, type_k = "f16", type_v = "f16", flash = "default", fill = "copy", check_text;
  int n_threads = static_cast<int>(std::thread::hardware_concurrency());
  int n_prompt = 512, n_gen = 32, n_batch = 2048, n_ubatch = 512;
  std::vector<int> depths = {0};
  bool huge_pages = false, merge_qkv = false, rope_cache = false;
  bool repack = false, k_hadamard = false, v_hadamard = false, log = false;
};

int Integer(const std::string& flag, const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != 0 || value < 0 || value > 1 << 24) {
    Die(flag + ": expected a number, found " + text);
  }
  return static_cast<int>(value);
}

Options Parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    auto value = [&]() -> std::string {
      if (++i >= argc) Die(flag + ": expected a value, found none");
      return argv[i];
    };
    if (flag == "-m") {
      o.model = value();
    } else if (flag == "-t") {
      o.n_threads = Integer(flag, value());
    } else if (flag == "-p") {
      o.n_prompt = Integer(flag, value());
    } else if (flag == "-n") {
      o.n_gen = Integer(flag, value());
    } else if (flag == "-b") {
      o.n_batch = Integer(flag, value());
    } else if (flag == "-ub") {
      o.n_ubatch = Integer(flag, value());
    } else if (flag == "-d") {
      o.depths.clear();
      std::stringstream list(value());
      for (std::string d; std::getline(list, d, ',');) o.depths.push_back(Integer(flag, d));
    } else if (flag == "-ctk") {
      o.type_k = value();
    } else if (flag == "-ctv") {
      o.type_v = value();
    } else if (flag == "-fa") {
      o.flash = value();
    } else if (flag == "--fill") {
      o.fill = value();
      if (o.fill != "copy" && o.fill != "prefill") Die(flag + ": expected copy or prefill");
    } else if (flag == "--check-text") {
      o.check_text = value();
    } else if (flag == "--repack") {
      o.repack = true;
    } else if (flag == "--k-hadamard") {
      o.k_hadamard = true;
    } else if (flag == "--v-hadamard") {
      o.v_hadamard = true;
    } else if (flag == "--huge-pages") {
      o.huge_pages = true;
    } else if (flag == "--merge-qkv") {
      o.merge_qkv = true;
    } else if (flag == "--rope-cache") {
      o.rope_cache = true;
    } else if (flag == "--log") {
      o.log = true;
    } else {
      Die("expected -m -t -p -n -b -ub -d -ctk -ctv -fa --fill --check-text --repack --k-hadamard "
          "--v-hadamard --huge-pages --merge-qkv --rope-cache --log, found " +
          flag);
    }
  }
  if (o.model.empty()) Die("-m: expected a GGUF file, found none");
  return o;
}

ggml_type TypeNamed(const std::string& name) {
  for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
    const char* known = ggml_type_name(static_cast<ggml_type>(t));
    if (known != nullptr && name == known) return static_cast<ggml_type>(t);
  }
  Die("cache type: expected a ggml type such as f16 or q8_0, found " + name);
}

// The two projects name some things differently. What a parameter struct or an overload set lacks
// is chosen away at compile time.
template <typename P>
void SetFlash(P& p, const std::string& flash) {
  if (flash == "default") return;
  if constexpr (requires { p.flash_attn_type; }) {
    using T = decltype(p.flash_attn_type);
    p.flash_attn_type = static_cast<T>(flash == "auto" ? -1 : flash == "on" ? 1 : 0);
  } else if (flash != "auto") {
    p.flash_attn = flash == "on";
  }
}
template <typename P>
void SetUnified(P& p) {
  if constexpr (requires { p.kv_unified; }) p.kv_unified = true;
}
// ik_llama.cpp's own switches.
template <typename P>
void SetContextSwitches(P& p, const Options& o) {
  if constexpr (requires {
                  p.k_cache_hadamard;
                  p.v_cache_hadamard;
                  p.rope_cache;
                }) {
    p.k_cache_hadamard = o.k_hadamard;
    p.v_cache_hadamard = o.v_hadamard;
    p.rope_cache = o.rope_cache;
  } else if (o.k_hadamard || o.v_hadamard || o.rope_cache) {
    Die("--k-hadamard, --v-hadamard, --rope-cache: this build has none");
  }
}
template <typename P>
void SetModelSwitches(P& p, const Options& o) {
  if constexpr (requires {
                  p.repack_tensors;
                  p.use_thp;
                  p.merge_qkv;
                }) {
    p.repack_tensors = o.repack;
    p.use_thp = o.huge_pages;
    p.merge_qkv = o.merge_qkv;
    if (o.repack) p.use_mmap = false;
  } else if (o.repack || o.huge_pages || o.merge_qkv) {
    Die("--repack, --huge-pages, --merge-qkv: this build has none");
  }
}
template <typename C>
void CopySequence(C* c, int from, int to) {
  if constexpr (requires { llama_kv_cache_seq_cp(c, from, to, -1, -1); }) {
    llama_kv_cache_seq_cp(c, from, to, -1, -1);
  } else {
    llama_memory_seq_cp(llama_get_memory(c), from, to, -1, -1);
  }
}
template <typename C>
void RemoveSequence(C* c, int seq, int first) {
  if constexpr (requires { llama_kv_cache_seq_rm(c, seq, first, -1); }) {
    llama_kv_cache_seq_rm(c, seq, first, -1);
  } else {
    llama_memory_seq_rm(llama_get_memory(c), seq, first, -1);
  }
}
// One project's state functions want flags as well.
template <typename C>
size_t SaveSequence(C* c, int seq, std::vector<uint8_t>* out) {
  if constexpr (requires { llama_state_seq_get_size(c, seq, 0); }) {
    out->resize(llama_state_seq_get_size(c, seq, 0));
    return llama_state_seq_get_data(c, out->data(), out->size(), seq, 0);
  } else {
    out->resize(llama_state_seq_get_size(c, seq));
    return llama_state_seq_get_data(c, out->data(), out->size(), seq);
  }
}
template <typename C>
size_t LoadSequence(C* c, int seq, const std::vector<uint8_t>& state) {
  if constexpr (requires { llama_state_seq_set_data(c, state.data(), state.size(), seq, 0); }) {
    return llama_state_seq_set_data(c, state.data(), state.size(), seq, 0);
  } else {
    return llama_state_seq_set_data(c, state.data(), state.size(), seq);
  }
}
template <typename M>
int VocabSize(const M* m) {
  if constexpr (requires { llama_n_vocab(m); }) {
    return llama_n_vocab(m);
  } else {
    return llama_vocab_n_tokens(llama_model_get_vocab(m));
  }
}
template <typename M>
int Tokenize(const M* m, const std::string& text, std::vector<llama_token>* out) {
  const int n_text = static_cast<int>(text.size()), n_out = static_cast<int>(out->size());
  if constexpr (requires {
                  llama_tokenize(m, text.data(), n_text, out->data(), n_out, true, false);
                }) {
    return llama_tokenize(m, text.data(), n_text, out->data(), n_out, true, false);
  } else {
    return llama_tokenize(llama_model_get_vocab(m), text.data(), n_text, out->data(), n_out, true,
                          false);
  }
}

class Peer {
 public:
  explicit Peer(const Options& options) : options_(options) {
    if (!options.log) llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    auto params = llama_model_default_params();
    SetModelSwitches(params, options);
    model_ = llama_model_load_from_file(options.model.c_str(), params);
    if (model_ == nullptr) Die(options.model + ": cannot be loaded (--log shows why)");
    n_vocab_ = VocabSize(model_);
  }

  void Open(int n_ctx) {
    if (context_ != nullptr) llama_free(context_);
    auto params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>((n_ctx + 255) / 256 * 256);
    params.n_batch = options_.n_batch;
    params.n_ubatch = options_.n_ubatch;
    params.n_seq_max = 2;
    params.n_threads = params.n_threads_batch = options_.n_threads;
    params.type_k = TypeNamed(options_.type_k);
    params.type_v = TypeNamed(options_.type_v);
    SetFlash(params, options_.flash);
    SetUnified(params);
    SetContextSwitches(params, options_);
    context_ = llama_init_from_model(model_, params);
    if (context_ == nullptr) Die("cannot make a context (--log shows why)");
    n_past_ = 0;
  }

  std::vector<llama_token> Tokens(int n, uint64_t seed) const {
    std::vector<llama_token> out(n);
    for (llama_token& t : out) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      t = static_cast<llama_token>((seed >> 33) % static_cast<uint64_t>(n_vocab_));
    }
    return out;
  }

  // Appends to sequence 0; logits of the last token only.
  void Decode(const std::vector<llama_token>& tokens) {
    const int n = static_cast<int>(tokens.size());
    for (int first = 0; first < n; first += options_.n_batch) {
      const int count = std::min(options_.n_batch, n - first);
      llama_batch batch = llama_batch_init(count, 0, 1);
      batch.n_tokens = count;
      for (int i = 0; i < count; ++i) {
        batch.token[i] = tokens[first + i];
        batch.pos[i] = n_past_ + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i + 1 == count;
      }
      const int code = llama_decode(context_, batch);
      llama_synchronize(context_);
      llama_batch_free(batch);
      if (code != 0) Die("llama_decode: expected 0, found " + std::to_string(code));
      n_past_ += count;
    }
  }

  void Fill(int depth) {
    if (depth == 0) return;
    if (options_.fill == "prefill" || depth <= kMostCopied) {
      Decode(Tokens(depth, 1));
      return;
    }
    Decode(Tokens(kMostCopied, 1));
    std::vector<uint8_t> state;
    if (SaveSequence(context_, 0, &state) == 0) Die("expected the state of a sequence, found none");
    int held = kMostCopied;
    for (; held + kMostCopied <= depth; held += kMostCopied) {
      if (LoadSequence(context_, 1, state) == 0) {
        Die("cannot load a state after " + std::to_string(held) + " tokens");
      }
      CopySequence(context_, 1, 0);
      RemoveSequence(context_, 1, -1);
    }
    if (held < depth) Decode(Tokens(depth - held, 2));
  }

  const float* logits() { return llama_get_logits_ith(context_, -1); }
  int n_vocab() const { return n_vocab_; }
  llama_model* model() { return model_; }

 private:
  const Options& options_;
  llama_model* model_ = nullptr;
  llama_context* context_ = nullptr;
  int n_vocab_ = 0;
  int n_past_ = 0;  // the next position
};

void Report(const Options& o, int n_prompt, int n_gen, int depth, const std::vector<int64_t>& ns) {
  int64_t sum = 0;
  for (int64_t x : ns) sum += x;
  const int n = n_prompt > 0 ? n_prompt : n_gen;
  std::printf(
      "{\"n_threads\": %d, \"type_k\": \"%s\", \"type_v\": \"%s\", \"n_prompt\": %d, \"n_gen\": "
      "%d, "
      "\"n_depth\": %d, \"depth_fill\": \"%s\", \"avg_ns\": %lld, \"avg_ts\": %.6f, "
      "\"step_ns\": [",
      o.n_threads, o.type_k.c_str(), o.type_v.c_str(), n_prompt, n_gen, depth,
      depth > 0 ? o.fill.c_str() : "none", static_cast<long long>(sum),
      n * 1e9 / static_cast<double>(sum));
  for (size_t i = 0; i < ns.size(); ++i) {
    std::printf("%s%lld", i > 0 ? ", " : "", static_cast<long long>(ns[i]));
  }
  std::printf("]}\n");
  std::fflush(stdout);
}

int64_t TimedDecode(Peer& peer, const std::vector<llama_token>& tokens) {
  const auto start = Clock::now();
  peer.Decode(tokens);
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

void CheckText(const Options& o, Peer& peer) {
  std::ifstream in(o.check_text, std::ios::binary);
  if (!in) Die(o.check_text + ": cannot be read");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::vector<llama_token> tokens(text.size() + 8);
  const int n = Tokenize(peer.model(), text, &tokens);
  if (n < 2) Die(o.check_text + ": expected at least two tokens, found " + std::to_string(n));
  peer.Open(n + 8);
  double nll = 0;
  for (int i = 0; i + 1 < n; ++i) {
    peer.Decode({tokens[i]});
    const float* logits = peer.logits();
    const double top = *std::max_element(logits, logits + peer.n_vocab());
    double sum = 0;
    for (int v = 0; v < peer.n_vocab(); ++v) sum += std::exp(logits[v] - top);
    nll += top + std::log(sum) - logits[tokens[i + 1]];
  }
  std::printf("{\"check\": \"perplexity\", \"n_tokens\": %d, \"ppl\": %.6f}\n", n,
              std::exp(nll / (n - 1)));
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = Parse(argc, argv);
  Peer peer(o);
  if (!o.check_text.empty()) CheckText(o, peer);
  if (o.n_prompt > 0) {
    for (int depth : o.depths) {
      peer.Open(depth + o.n_prompt + 64);
      peer.Fill(depth);
      if (depth == 0) {  // touches the weights, wakes the threads
        peer.Decode(peer.Tokens(std::min(64, o.n_ubatch), 4));
        peer.Open(o.n_prompt + 64);
      }
      Report(o, o.n_prompt, 0, depth, {TimedDecode(peer, peer.Tokens(o.n_prompt, 3))});
    }
  }
  if (o.n_gen > 0) {
    for (int depth : o.depths) {
      peer.Open(depth + o.n_gen + kWarmUpSteps + 64);
      peer.Fill(depth);
      for (llama_token t : peer.Tokens(kWarmUpSteps, 5)) peer.Decode({t});
      std::vector<int64_t> ns;
      for (llama_token t : peer.Tokens(o.n_gen, 6)) ns.push_back(TimedDecode(peer, {t}));
      Report(o, 0, o.n_gen, depth, ns);
    }
  }
  return 0;
}
