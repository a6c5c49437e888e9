#include "formats/tokenizer/spm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "formats/utf8.h"

namespace phasor {
namespace {

// How much less likely than the rarest token an unknown character is (SentencePiece).
constexpr double kUnknownPenalty = 10.0;

}  // namespace

Result<std::unique_ptr<SpmModel>> SpmModel::Create(const std::vector<ScoredToken>& tokens,
                                                   const std::array<int32_t, 256>& byte_ids,
                                                   int32_t unk_id) {
  std::unique_ptr<SpmModel> model(new SpmModel);
  MetaspaceCutter cutter;
  std::vector<int32_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0);
  for (const ScoredToken& token : tokens) {
    if (std::isnan(token.score)) return DataCorrupt("tokenizer: expected scores, found NaN");
  }
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return tokens[a].score > tokens[b].score; });
  model->ranks_.resize(tokens.size());
  uint32_t rank = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {  // equal scores share a rank: leftmost decides
    if (i > 0 && tokens[order[i]].score < tokens[order[i - 1]].score) ++rank;
    model->ranks_[order[i]] = rank;
  }
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].usable || tokens[id].text.empty()) continue;
    model->index_.emplace(tokens[id].text, static_cast<int32_t>(id));
    model->max_token_bytes_ = std::max(model->max_token_bytes_, tokens[id].text.size());
    cutter.AddToken(tokens[id].text);
  }
  model->cut_at_spaces_ = cutter.allowed(model->index_.find(kMetaspace) != model->index_.end());
  model->byte_ids_ = byte_ids;
  model->unk_id_ = unk_id;
  return model;
}

void SpmModel::Encode(std::string_view piece, ModelScratch* scratch,
                      std::vector<int32_t>* ids) const {
  while (!piece.empty()) {
    std::size_t size = cut_at_spaces_ ? MetaspaceCutter::FirstPart(piece) : piece.size();
    std::string_view word = piece.substr(0, size);
    if (!scratch->cache.Find(word, ids)) {
      std::size_t before = ids->size();
      EncodeWord(word, scratch, ids);
      scratch->cache.Insert(word, ids->data() + before, ids->size() - before);
    }
    piece.remove_prefix(size);
  }
}

void SpmModel::EncodeWord(std::string_view word, ModelScratch* scratch,
                          std::vector<int32_t>* ids) const {
  auto& symbols = scratch->symbols;
  symbols.clear();
  for (std::size_t i = 0; i < word.size();) {
    std::size_t size = Utf8Length(word[i]);
    auto it = index_.find(word.substr(i, size));
    auto n = static_cast<int32_t>(symbols.size());
    symbols.push_back({n - 1, n + 1, it == index_.end() ? -1 : it->second, static_cast<uint32_t>(i),
                       static_cast<uint32_t>(size)});
    i += size;
  }
  if (!symbols.empty()) symbols.back().next = -1;
  MergeSymbols(scratch,
               [&](const MergeSymbol& left, const MergeSymbol& right, uint32_t* rank, int32_t* id) {
                 std::size_t size = left.size + right.size;
                 if (size > max_token_bytes_) return false;
                 auto it = index_.find(word.substr(left.begin, size));
                 if (it == index_.end()) return false;
                 *id = it->second;
                 *rank = ranks_[it->second];
                 return true;
               });
  for (const MergeSymbol& s : symbols) {
    if (s.size == 0) continue;
    if (s.id >= 0) {
      ids->push_back(s.id);
    } else if (ByteId(static_cast<uint8_t>(word[s.begin])) >= 0) {
      for (std::size_t b = s.begin; b < s.begin + s.size; ++b) {
        int32_t id = ByteId(static_cast<uint8_t>(word[b]));
        if (id >= 0) ids->push_back(id);
      }
    } else if (unk_id_ >= 0) {
      ids->push_back(unk_id_);
    }
  }
}

Result<std::unique_ptr<UnigramModel>> UnigramModel::Create(const std::vector<ScoredToken>& tokens,
                                                           const std::array<int32_t, 256>& byte_ids,
                                                           const Options& options) {
  std::unique_ptr<UnigramModel> model(new UnigramModel);
  double lowest = std::numeric_limits<double>::infinity();
  model->scores_.reserve(tokens.size());
  for (const ScoredToken& token : tokens) {
    if (!std::isfinite(token.score)) {
      return DataCorrupt("tokenizer: expected finite scores, found " + std::to_string(token.score));
    }
    lowest = std::min(lowest, token.score);
    model->scores_.push_back(token.score);
  }
  model->unk_score_ = lowest - kUnknownPenalty;
  model->options_ = options;
  model->byte_ids_ = byte_ids;
  model->BuildTrie(tokens);
  return model;
}

void UnigramModel::BuildTrie(const std::vector<ScoredToken>& tokens) {
  std::vector<int32_t> order;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].usable && !tokens[id].text.empty()) order.push_back(static_cast<int32_t>(id));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return tokens[a].text < tokens[b].text; });
  // Breadth first over ranges of the sorted tokens, so that the children of a node lie together.
  struct Range {
    std::size_t begin, end, depth;
    int32_t node;
  };
  std::vector<Range> queue{{0, order.size(), 0, 0}};
  trie_.assign(1, Node());
  for (std::size_t q = 0; q < queue.size(); ++q) {
    Range r = queue[q];
    while (r.begin < r.end && tokens[order[r.begin]].text.size() == r.depth) {
      trie_[r.node].token = order[r.begin++];  // of equal texts the last wins
    }
    trie_[r.node].first_child = static_cast<int32_t>(trie_.size());
    for (std::size_t i = r.begin; i < r.end;) {
      char byte = tokens[order[i]].text[r.depth];
      std::size_t end = i;
      while (end < r.end && tokens[order[end]].text[r.depth] == byte) ++end;
      queue.push_back({i, end, r.depth + 1, static_cast<int32_t>(trie_.size())});
      Node child;
      child.byte = static_cast<uint8_t>(byte);
      trie_.push_back(child);
      ++trie_[r.node].n_children;
      i = end;
    }
  }
  roots_.fill(-1);
  for (int32_t i = 0; i < trie_[0].n_children; ++i) {
    roots_[trie_[trie_[0].first_child + i].byte] = trie_[0].first_child + i;
  }
}

int32_t UnigramModel::Child(int32_t node, uint8_t byte) const {
  const Node& n = trie_[node];
  auto begin = trie_.begin() + n.first_child, end = begin + n.n_children;
  auto it = std::lower_bound(begin, end, byte, [](const Node& a, uint8_t b) { return a.byte < b; });
  return it == end || it->byte != byte ? -1 : static_cast<int32_t>(it - trie_.begin());
}

void UnigramModel::Relax(std::string_view piece, std::size_t begin, std::vector<Best>* best) const {
  std::size_t character_end = begin + Utf8Length(piece[begin]);
  double here = (*best)[begin].score;
  auto offer = [&](std::size_t end, double score, int32_t id) {
    Best& target = (*best)[end];
    if (target.begin < 0 || here + score > target.score) {
      target = {here + score, static_cast<int32_t>(begin), id};
    }
  };
  bool has_character = false;
  int32_t node = roots_[static_cast<uint8_t>(piece[begin])];
  for (std::size_t end = begin + 1; node >= 0; ++end) {
    int32_t token = trie_[node].token;
    if (token >= 0) {
      offer(end, scores_[token], token);
      has_character |= end == character_end;
    }
    if (end >= piece.size()) break;
    node = Child(node, static_cast<uint8_t>(piece[end]));
  }
  if (!has_character) offer(character_end, unk_score_, options_.unk_id);
}

void UnigramModel::Encode(std::string_view piece, ModelScratch* scratch,
                          std::vector<int32_t>* ids) const {
  if (piece.empty() || scratch->cache.Find(piece, ids)) return;
  std::vector<Best> best(piece.size() + 1);
  for (std::size_t i = 0; i < piece.size(); i += Utf8Length(piece[i])) Relax(piece, i, &best);
  std::size_t before = ids->size();
  std::vector<int32_t> reversed;
  std::size_t end = piece.size();
  while (end > 0) {
    const Best& b = best[end];
    auto begin = static_cast<std::size_t>(b.begin);
    if (b.id != options_.unk_id) {
      reversed.push_back(b.id);
      end = begin;
      continue;
    }
    while (options_.fuse_unk && begin > 0 && best[begin].id == options_.unk_id) {
      begin = static_cast<std::size_t>(best[begin].begin);
    }
    std::vector<int32_t> unknown;
    AddUnknown(piece.substr(begin, end - begin), &unknown);
    reversed.insert(reversed.end(), unknown.rbegin(), unknown.rend());
    end = begin;
  }
  ids->insert(ids->end(), reversed.rbegin(), reversed.rend());
  scratch->cache.Insert(piece, ids->data() + before, ids->size() - before);
}

void UnigramModel::AddUnknown(std::string_view text, std::vector<int32_t>* ids) const {
  if (options_.byte_fallback) {
    bool all = std::all_of(text.begin(), text.end(),
                           [&](char c) { return ByteId(static_cast<uint8_t>(c)) >= 0; });
    if (all) {
      for (char c : text) ids->push_back(ByteId(static_cast<uint8_t>(c)));
      return;
    }
  }
  if (options_.unk_id >= 0) ids->push_back(options_.unk_id);
}

}  // namespace phasor
