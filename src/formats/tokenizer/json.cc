// Tokenizers from a Hugging Face tokenizer.json and the small files beside it.
#include "formats/tokenizer/json.h"

#include <algorithm>
#include <array>
#include <utility>

#include "formats/json_check.h"
#include "formats/printable.h"
#include "formats/tokenizer/bpe.h"
#include "formats/tokenizer/files.h"
#include "formats/tokenizer/spm.h"

namespace phasor {

const Json* JsonMember(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

namespace {

Status WrongType(const std::string& name, const char* wanted, const Json& found) {
  return DataCorrupt("tokenizer.json: " + name + ": expected " + wanted + ", found " +
                     found.type_name());
}

// Ids are indices of arrays here; the largest known vocabulary has 262,144.
constexpr int64_t kMaxTokens = 1 << 21;

}  // namespace

Result<std::string> JsonString(const Json& object, const char* name, const char* otherwise) {
  const Json* value = JsonMember(object, name);
  if (value == nullptr) return std::string(otherwise);
  if (!value->is_string()) return WrongType(name, "a string", *value);
  return value->get<std::string>();
}

Result<bool> JsonBool(const Json& object, const char* name, bool otherwise) {
  const Json* value = JsonMember(object, name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return WrongType(name, "true or false", *value);
  return value->get<bool>();
}

Result<int32_t> JsonId(const Json& value, const std::string& what, int64_t end) {
  if (!value.is_number_integer()) return WrongType(what, "an integer", value);
  bool negative = !value.is_number_unsigned() && value.get<int64_t>() < 0;
  if (negative || value.get<uint64_t>() >= static_cast<uint64_t>(end)) {
    return DataCorrupt("tokenizer.json: " + what + ": expected an id below " + std::to_string(end) +
                       ", found " + value.dump());
  }
  return static_cast<int32_t>(value.get<uint64_t>());
}

namespace {

class JsonReader {
 public:
  explicit JsonReader(const TokenizerTexts& texts) : texts_(texts) {}

  Result<std::unique_ptr<Tokenizer>> Read() {
    PHASOR_ASSIGN_OR_RETURN(Json root, Parse(texts_.tokenizer_json, "tokenizer.json"));
    const Json* model = JsonMember(root, "model");
    if (model == nullptr || !model->is_object()) {
      return DataCorrupt("tokenizer.json: expected a model, found none");
    }
    if (const Json* node = JsonMember(root, "normalizer")) {
      PHASOR_RETURN_IF_ERROR(ReadJsonNormalizer(*node, &parts_.normalizer));
    }
    if (const Json* node = JsonMember(root, "pre_tokenizer")) {
      PHASOR_RETURN_IF_ERROR(ReadJsonPreTokenizer(*node, &parts_.pre_tokenizer, &byte_level_));
    }
    decoder_.byte_level = byte_level_;
    if (const Json* node = JsonMember(root, "decoder")) {
      decoder_ = JsonDecoder();
      PHASOR_RETURN_IF_ERROR(ReadJsonDecoder(*node, &decoder_));
    }
    parts_.trim = decoder_.trim;
    PHASOR_RETURN_IF_ERROR(ReadVocabulary(*model));
    PHASOR_RETURN_IF_ERROR(ReadAddedTokens(root));
    if (const Json* node = JsonMember(root, "post_processor")) {
      PHASOR_RETURN_IF_ERROR(ReadPostProcessor(*node));
    }
    PHASOR_RETURN_IF_ERROR(ReadConfig());
    PHASOR_RETURN_IF_ERROR(MakeModel(*model));
    return std::unique_ptr<Tokenizer>(std::make_unique<PipelineTokenizer>(std::move(parts_)));
  }

 private:
  static Result<Json> Parse(std::string_view text, const char* where) {
    if (text.empty()) return Json::object();
    PHASOR_RETURN_IF_ERROR(CheckJsonObject(text, where));
    Json json = Json::parse(text, nullptr, false);
    if (!json.is_object()) {
      return DataCorrupt(std::string(where) + ": expected a JSON object, found something else");
    }
    return json;
  }

  Status ReadVocabulary(const Json& model) {
    PHASOR_ASSIGN_OR_RETURN(type_, JsonString(model, "type", ""));
    const Json* vocab = JsonMember(model, "vocab");
    if (type_.empty() && vocab != nullptr) type_ = vocab->is_array() ? "Unigram" : "BPE";
    if (type_ != "BPE" && type_ != "Unigram") {
      return Unsupported("tokenizer.json: expected a model of type BPE or Unigram, found " +
                         Printable(type_));
    }
    if (vocab == nullptr || vocab->empty() || (type_ == "BPE") != vocab->is_object()) {
      return DataCorrupt("tokenizer.json: model: expected a vocab, found " +
                         std::string(vocab == nullptr ? "none" : vocab->type_name()));
    }
    if (static_cast<int64_t>(vocab->size()) > kMaxTokens) {
      return DataCorrupt("tokenizer.json: vocab: expected at most " + std::to_string(kMaxTokens) +
                         " tokens, found " + std::to_string(vocab->size()));
    }
    return type_ == "BPE" ? ReadBpeVocabulary(*vocab) : ReadUnigramVocabulary(*vocab);
  }

  Status ReadBpeVocabulary(const Json& vocab) {
    index_.reserve(vocab.size());
    for (const auto& [token, value] : vocab.items()) {
      PHASOR_ASSIGN_OR_RETURN(int32_t id, JsonId(value, "vocab: " + Printable(token), kMaxTokens));
      PHASOR_RETURN_IF_ERROR(Claim(id, token));
      index_.emplace(token, id);
    }
    return Status::Ok();
  }

  Status ReadUnigramVocabulary(const Json& vocab) {
    for (const Json& entry : vocab) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() ||
          !entry[1].is_number()) {
        return WrongType("vocab", "pairs of a string and a number", entry);
      }
      auto id = static_cast<int32_t>(scored_.size());
      scored_.push_back({entry[0].get<std::string>(), entry[1].get<double>(), true});
      PHASOR_RETURN_IF_ERROR(Claim(id, scored_.back().text));
      index_.insert_or_assign(scored_.back().text, id);
    }
    return Status::Ok();
  }

  // Gives `id` to a token of the vocabulary.
  Status Claim(int32_t id, const std::string& token) {
    auto n = static_cast<std::size_t>(id) + 1;
    if (claimed_.size() < n) {
      claimed_.resize(n);
      parts_.token_bytes.resize(n);
      parts_.special.resize(n);
    }
    if (claimed_[id]) {
      return DataCorrupt("tokenizer.json: id " + std::to_string(id) +
                         ": expected one token, found another, " + Printable(token));
    }
    claimed_[id] = true;
    parts_.token_bytes[id] = decoder_.Bytes(token);
    return Status::Ok();
  }

  Status ReadAddedTokens(const Json& root) {
    const Json* list = JsonMember(root, "added_tokens");
    if (list == nullptr) return Status::Ok();
    if (!list->is_array()) return WrongType("added_tokens", "a list", *list);
    for (const Json& node : *list) {
      const Json* id = JsonMember(node, "id");
      if (id == nullptr) return WrongType("added_tokens", "entries with an id", node);
      AddedToken token;
      PHASOR_ASSIGN_OR_RETURN(token.id, JsonId(*id, "added_tokens", kMaxTokens));
      PHASOR_ASSIGN_OR_RETURN(token.content, JsonString(node, "content", ""));
      PHASOR_ASSIGN_OR_RETURN(token.special, JsonBool(node, "special", false));
      PHASOR_ASSIGN_OR_RETURN(token.lstrip, JsonBool(node, "lstrip", false));
      PHASOR_ASSIGN_OR_RETURN(token.rstrip, JsonBool(node, "rstrip", false));
      PHASOR_ASSIGN_OR_RETURN(token.single_word, JsonBool(node, "single_word", false));
      PHASOR_ASSIGN_OR_RETURN(token.normalized, JsonBool(node, "normalized", !token.special));
      auto known = index_.find(token.content);
      if (known != index_.end()) {
        token.id = known->second;  // the vocabulary decides, as in Hugging Face
      } else {
        PHASOR_RETURN_IF_ERROR(Claim(token.id, token.content));
        added_index_.emplace(token.content, token.id);
      }
      parts_.token_bytes[token.id] = token.content;
      if (token.special) parts_.special[token.id] = true;
      parts_.added.push_back(std::move(token));
    }
    return Status::Ok();
  }

  // -1 when there is no such token.
  int32_t FindToken(std::string_view text) const {
    if (auto it = added_index_.find(text); it != added_index_.end()) return it->second;
    auto it = index_.find(text);
    return it == index_.end() ? -1 : it->second;
  }

  Result<int32_t> KnownId(const Json& value, const std::string& what) const {
    return JsonId(value, what, static_cast<int64_t>(parts_.token_bytes.size()));
  }

  Status ReadPostProcessor(const Json& node) {
    PHASOR_ASSIGN_OR_RETURN(std::string type, JsonString(node, "type", ""));
    if (type == "ByteLevel") return Status::Ok();  // changes offsets only
    if (type == "Sequence") {
      const Json* list = JsonMember(node, "processors");
      if (list == nullptr || !list->is_array()) return WrongType("processors", "a list", node);
      for (const Json& n : *list) PHASOR_RETURN_IF_ERROR(ReadPostProcessor(n));
      return Status::Ok();
    }
    if (type == "TemplateProcessing") return ReadTemplate(node);
    if (type == "BertProcessing" || type == "RobertaProcessing") {
      return ReadFrame(node, "cls", &parts_.prefix_ids, "sep", &parts_.suffix_ids);
    }
    return Unsupported(
        "tokenizer.json: post_processor: expected one of TemplateProcessing, ByteLevel, "
        "BertProcessing, RobertaProcessing, Sequence, found " +
        Printable(type));
  }

  // ["<s>", 1] in two members.
  Status ReadFrame(const Json& node, const char* first, std::vector<int32_t>* first_ids,
                   const char* last, std::vector<int32_t>* last_ids) {
    for (auto [name, ids] : {std::pair{first, first_ids}, {last, last_ids}}) {
      const Json* pair = JsonMember(node, name);
      if (pair == nullptr || !pair->is_array() || pair->size() != 2) {
        return WrongType(name, "a token and its id", node);
      }
      PHASOR_ASSIGN_OR_RETURN(int32_t id, KnownId((*pair)[1], name));
      ids->push_back(id);
    }
    return Status::Ok();
  }

  Status ReadTemplate(const Json& node) {
    const Json* single = JsonMember(node, "single");
    if (single == nullptr || !single->is_array()) {
      return WrongType("post_processor", "a list named single", node);
    }
    bool behind_text = false;
    for (const Json& item : *single) {
      if (JsonMember(item, "Sequence") != nullptr) {
        behind_text = true;
        continue;
      }
      const Json* special = JsonMember(item, "SpecialToken");
      if (special == nullptr) return WrongType("single", "SpecialToken or Sequence", item);
      PHASOR_ASSIGN_OR_RETURN(std::string name, JsonString(*special, "id", ""));
      const Json* table = JsonMember(node, "special_tokens");
      const Json* entry = table == nullptr ? nullptr : JsonMember(*table, name.c_str());
      const Json* ids = entry == nullptr ? nullptr : JsonMember(*entry, "ids");
      if (ids == nullptr || !ids->is_array()) {
        return DataCorrupt("tokenizer.json: post_processor: expected ids of " + Printable(name) +
                           ", found none");
      }
      for (const Json& value : *ids) {
        PHASOR_ASSIGN_OR_RETURN(int32_t id, KnownId(value, "post_processor"));
        (behind_text ? parts_.suffix_ids : parts_.prefix_ids).push_back(id);
      }
    }
    return Status::Ok();
  }

  // "<s>" or {"content": "<s>", ...}.
  int32_t NamedToken(const Json& config, const char* name) const {
    const Json* value = JsonMember(config, name);
    if (value != nullptr && value->is_object()) value = JsonMember(*value, "content");
    return value != nullptr && value->is_string() ? FindToken(value->get_ref<const std::string&>())
                                                  : -1;
  }

  Status ReadConfig() {
    PHASOR_ASSIGN_OR_RETURN(Json config,
                            Parse(texts_.tokenizer_config_json, "tokenizer_config.json"));
    PHASOR_ASSIGN_OR_RETURN(Json map,
                            Parse(texts_.special_tokens_map_json, "special_tokens_map.json"));
    PHASOR_ASSIGN_OR_RETURN(Json generation,
                            Parse(texts_.generation_config_json, "generation_config.json"));
    parts_.bos_id = NamedToken(config, "bos_token");
    parts_.eos_id = NamedToken(config, "eos_token");
    if (parts_.bos_id < 0) parts_.bos_id = NamedToken(map, "bos_token");
    if (parts_.eos_id < 0) parts_.eos_id = NamedToken(map, "eos_token");
    if (parts_.bos_id < 0 && !parts_.prefix_ids.empty()) parts_.bos_id = parts_.prefix_ids[0];
    if (const Json* ends = JsonMember(generation, "eos_token_id")) {
      for (const Json& value : ends->is_array() ? *ends : Json::array({*ends})) {
        PHASOR_ASSIGN_OR_RETURN(int32_t id, KnownId(value, "eos_token_id"));
        parts_.end_ids.insert(id);
        if (parts_.eos_id < 0) parts_.eos_id = id;
      }
    }
    AddWellKnownEnds(&parts_);
    return ReadChatTemplate(config);
  }

  // A string, or a list of {"name", "template"} of which "default" is taken.
  Status ReadChatTemplate(const Json& config) {
    parts_.chat_template = std::string(texts_.chat_template);
    const Json* node = JsonMember(config, "chat_template");
    if (!parts_.chat_template.empty() || node == nullptr) return Status::Ok();
    if (node->is_array()) {
      for (const Json& entry : *node) {
        PHASOR_ASSIGN_OR_RETURN(std::string name, JsonString(entry, "name", ""));
        if (name != "default") continue;
        PHASOR_ASSIGN_OR_RETURN(parts_.chat_template, JsonString(entry, "template", ""));
      }
      return Status::Ok();
    }
    PHASOR_ASSIGN_OR_RETURN(parts_.chat_template, JsonString(config, "chat_template", ""));
    return Status::Ok();
  }

  Status MakeModel(const Json& model) {
    return type_ == "BPE" ? MakeBpe(model) : MakeUnigram(model);
  }

  Status MakeBpe(const Json& model) {
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      PHASOR_ASSIGN_OR_RETURN(std::string text, JsonString(model, name, ""));
      if (!text.empty()) {
        return Unsupported(std::string("tokenizer.json: ") + name + ": expected none, found " +
                           Printable(text));
      }
    }
    if (const Json* dropout = JsonMember(model, "dropout"); dropout != nullptr && *dropout != 0) {
      return Unsupported("tokenizer.json: dropout: expected none, found " +
                         Printable(dropout->dump(-1, ' ', true)));
    }
    BpeOptions options;
    options.byte_level = byte_level_;
    PHASOR_ASSIGN_OR_RETURN(options.byte_fallback, JsonBool(model, "byte_fallback", false));
    PHASOR_ASSIGN_OR_RETURN(options.ignore_merges, JsonBool(model, "ignore_merges", false));
    PHASOR_ASSIGN_OR_RETURN(options.fuse_unk, JsonBool(model, "fuse_unk", false));
    PHASOR_ASSIGN_OR_RETURN(std::string unk, JsonString(model, "unk_token", ""));
    if (!unk.empty()) {
      options.unk_id = FindToken(unk);
      if (options.unk_id < 0) {
        return DataCorrupt("tokenizer.json: unk_token: expected a token, found " + Printable(unk));
      }
    }
    parts_.kind = byte_level_ ? "bpe/json" : "bpe/characters";
    PHASOR_ASSIGN_OR_RETURN(auto merges, ReadMerges(model));
    PHASOR_ASSIGN_OR_RETURN(parts_.model, BpeModel::Create(std::move(index_), merges, options));
    return Status::Ok();
  }

  using Merges = std::vector<std::pair<std::string, std::string>>;
  static Result<Merges> ReadMerges(const Json& model) {
    Merges merges;
    const Json* list = JsonMember(model, "merges");
    if (list == nullptr) return merges;
    if (!list->is_array()) return WrongType("merges", "a list", *list);
    merges.reserve(list->size());
    for (const Json& node : *list) {
      if (node.is_array() && node.size() == 2 && node[0].is_string() && node[1].is_string()) {
        merges.emplace_back(node[0].get<std::string>(), node[1].get<std::string>());
        continue;
      }
      std::string line = node.is_string() ? node.get<std::string>() : std::string();
      std::size_t space = line.find(' ');
      if (space == line.npos || line.find(' ', space + 1) != line.npos) {
        return DataCorrupt("tokenizer.json: merge " + std::to_string(merges.size()) +
                           ": expected two tokens, found " +
                           (node.is_string() ? Printable(line) : std::string(node.type_name())));
      }
      merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    }
    return merges;
  }

  Status MakeUnigram(const Json& model) {
    UnigramModel::Options options;
    if (const Json* unk = JsonMember(model, "unk_id")) {
      PHASOR_ASSIGN_OR_RETURN(options.unk_id,
                              JsonId(*unk, "unk_id", static_cast<int64_t>(scored_.size())));
    }
    PHASOR_ASSIGN_OR_RETURN(options.byte_fallback, JsonBool(model, "byte_fallback", false));
    std::array<int32_t, 256> byte_ids;
    byte_ids.fill(-1);
    for (std::size_t id = 0; options.byte_fallback && id < scored_.size(); ++id) {
      int byte = ByteOfToken(scored_[id].text);
      if (byte >= 0) byte_ids[byte] = static_cast<int32_t>(id);
    }
    if (byte_level_) {
      return Unsupported("tokenizer.json: expected ByteLevel with a BPE model, found Unigram");
    }
    parts_.kind = "unigram";
    PHASOR_ASSIGN_OR_RETURN(parts_.model, UnigramModel::Create(scored_, byte_ids, options));
    return Status::Ok();
  }

  const TokenizerTexts& texts_;
  TokenizerParts parts_;
  JsonDecoder decoder_;
  bool byte_level_ = false;
  std::string type_;
  TokenIndex index_, added_index_;
  std::vector<ScoredToken> scored_;
  std::vector<bool> claimed_;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> TokenizerFromTexts(const TokenizerTexts& texts) {
  try {
    if (texts.tokenizer_json.empty()) {
      return DataCorrupt("tokenizer.json: expected a JSON object, found an empty file");
    }
    return JsonReader(texts).Read();
  } catch (const Json::exception& error) {
    return DataCorrupt(std::string("tokenizer.json: expected a tokenizer, found ") +
                       Printable(error.what()));
  }
}

}  // namespace phasor
