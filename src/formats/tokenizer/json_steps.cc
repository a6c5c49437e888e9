#include <limits>

#include "formats/printable.h"
#include "formats/tokenizer/json.h"

namespace phasor {
namespace {

Status UnknownType(const char* part, const std::string& known, const std::string& found) {
  return Unsupported(std::string("tokenizer.json: ") + part + ": expected one of " + known +
                     ", found " + Printable(found));
}

// Calls f on each element of the member, which must be an array.
template <typename F>
Status ForEach(const Json& node, const char* name, F&& f) {
  const Json* list = JsonMember(node, name);
  if (list == nullptr || !list->is_array()) {
    return DataCorrupt(std::string("tokenizer.json: expected a list ") + name + ", found none");
  }
  for (const Json& element : *list) PHASOR_RETURN_IF_ERROR(f(element));
  return Status::Ok();
}

// {"String": "..."} or {"Regex": "..."}.
Result<Regex> ReadPattern(const Json& node) {
  const Json* pattern = JsonMember(node, "pattern");
  if (pattern != nullptr && JsonMember(*pattern, "String") != nullptr) {
    PHASOR_ASSIGN_OR_RETURN(std::string text, JsonString(*pattern, "String", ""));
    return Regex::Literal(text);
  }
  if (pattern != nullptr && JsonMember(*pattern, "Regex") != nullptr) {
    PHASOR_ASSIGN_OR_RETURN(std::string text, JsonString(*pattern, "Regex", ""));
    return Regex::Compile(text);
  }
  return DataCorrupt("tokenizer.json: expected a pattern of kind String or Regex, found neither");
}

Result<SplitBehavior> ReadBehavior(const Json& node, const char* otherwise) {
  PHASOR_ASSIGN_OR_RETURN(std::string name, JsonString(node, "behavior", otherwise));
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  return UnknownType("behavior",
                     "Isolated, Removed, Contiguous, MergedWithPrevious, MergedWithNext", name);
}

Status ReadSplit(const Json& node, PreTokenizer* out) {
  PHASOR_ASSIGN_OR_RETURN(Regex pattern, ReadPattern(node));
  PHASOR_ASSIGN_OR_RETURN(SplitBehavior behavior, ReadBehavior(node, ""));
  PHASOR_ASSIGN_OR_RETURN(bool invert, JsonBool(node, "invert", false));
  out->AddSplit(std::move(pattern), behavior, invert);
  return Status::Ok();
}

Status ReadByteLevel(const Json& node, PreTokenizer* out) {
  PHASOR_ASSIGN_OR_RETURN(bool prefix, JsonBool(node, "add_prefix_space", true));
  PHASOR_ASSIGN_OR_RETURN(bool use_regex, JsonBool(node, "use_regex", true));
  if (prefix) out->AddPrefixSpace();
  if (use_regex) out->AddGpt2Pattern();
  return Status::Ok();
}

struct Metaspace {
  std::string replacement;
  PrependScheme prepend = PrependScheme::kAlways;
};

Result<Metaspace> ReadMetaspace(const Json& node) {
  Metaspace result;
  PHASOR_ASSIGN_OR_RETURN(result.replacement,
                          JsonString(node, "replacement", std::string(kMetaspace).c_str()));
  if (result.replacement.empty()) {
    return DataCorrupt("tokenizer.json: metaspace: expected a replacement, found an empty one");
  }
  PHASOR_ASSIGN_OR_RETURN(bool prefix, JsonBool(node, "add_prefix_space", true));
  PHASOR_ASSIGN_OR_RETURN(std::string scheme,
                          JsonString(node, "prepend_scheme", prefix ? "always" : "never"));
  if (scheme == "first") {
    result.prepend = PrependScheme::kFirst;
  } else if (scheme == "never") {
    result.prepend = PrependScheme::kNever;
  } else if (scheme != "always") {
    return UnknownType("prepend_scheme", "always, first, never", scheme);
  }
  return result;
}

}  // namespace

Status ReadJsonNormalizer(const Json& node, Normalizer* out) {
  PHASOR_ASSIGN_OR_RETURN(std::string type, JsonString(node, "type", ""));
  if (type == "Sequence") {
    return ForEach(node, "normalizers", [&](const Json& n) { return ReadJsonNormalizer(n, out); });
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    out->AddForm(type == "NFC"    ? NormalForm::kNfc
                 : type == "NFD"  ? NormalForm::kNfd
                 : type == "NFKC" ? NormalForm::kNfkc
                                  : NormalForm::kNfkd);
    return Status::Ok();
  }
  if (type == "Replace") {
    PHASOR_ASSIGN_OR_RETURN(Regex pattern, ReadPattern(node));
    PHASOR_ASSIGN_OR_RETURN(std::string content, JsonString(node, "content", ""));
    out->AddReplace(std::move(pattern), std::move(content));
    return Status::Ok();
  }
  if (type == "Prepend") {
    PHASOR_ASSIGN_OR_RETURN(std::string text, JsonString(node, "prepend", ""));
    out->AddPrepend(std::move(text));
    return Status::Ok();
  }
  if (type == "Strip") {
    PHASOR_ASSIGN_OR_RETURN(bool left, JsonBool(node, "strip_left", true));
    PHASOR_ASSIGN_OR_RETURN(bool right, JsonBool(node, "strip_right", true));
    out->AddStrip(left, right);
    return Status::Ok();
  }
  if (type == "Precompiled") {
    PHASOR_ASSIGN_OR_RETURN(std::string map, JsonString(node, "precompiled_charsmap", ""));
    if (map.empty()) return Status::Ok();
    return Unsupported(
        "tokenizer.json: normalizer Precompiled: expected an empty character map, found one of " +
        std::to_string(map.size()) + " letters of base64");
  }
  return UnknownType("normalizer",
                     "NFC, NFD, NFKC, NFKD, Replace, Prepend, Strip, Precompiled, Sequence", type);
}

Status ReadJsonPreTokenizer(const Json& node, PreTokenizer* out, bool* byte_level) {
  Result<std::string> type_or = JsonString(node, "type", "");
  if (!type_or.ok()) return type_or.status();
  const std::string& type = *type_or;  // no copy: g++ 12 warns about one here without a reason
  if (type == "Sequence") {
    return ForEach(node, "pretokenizers",
                   [&](const Json& n) { return ReadJsonPreTokenizer(n, out, byte_level); });
  }
  if (*byte_level) {
    return Unsupported("tokenizer.json: pre_tokenizer: expected ByteLevel to be the last, found " +
                       Printable(type) + " behind it");
  }
  if (type == "ByteLevel") {
    *byte_level = true;
    return ReadByteLevel(node, out);
  }
  if (type == "Split") return ReadSplit(node, out);
  if (type == "Digits") {
    PHASOR_ASSIGN_OR_RETURN(bool individual, JsonBool(node, "individual_digits", false));
    out->AddDigits(individual);
  } else if (type == "Punctuation") {
    PHASOR_ASSIGN_OR_RETURN(SplitBehavior behavior, ReadBehavior(node, "Isolated"));
    out->AddPunctuation(behavior);
  } else if (type == "WhitespaceSplit") {
    out->AddWhitespaceSplit();
  } else if (type == "Whitespace") {
    out->AddWhitespace();
  } else if (type == "Metaspace") {
    PHASOR_ASSIGN_OR_RETURN(Metaspace m, ReadMetaspace(node));
    PHASOR_ASSIGN_OR_RETURN(bool split, JsonBool(node, "split", true));
    out->AddMetaspace(m.replacement, m.prepend, split);
  } else {
    return UnknownType("pre_tokenizer",
                       "ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
                       "Metaspace, Sequence",
                       type);
  }
  return Status::Ok();
}

namespace {

Status ReadStripDecoder(const Json& node, JsonDecoder* out) {
  PHASOR_ASSIGN_OR_RETURN(std::string content, JsonString(node, "content", " "));
  if (content != " ") return UnknownType("decoder Strip", "a space", content);
  auto read = [&](const char* name, int* count) -> Status {
    const Json* value = JsonMember(node, name);
    if (value == nullptr) return Status::Ok();
    PHASOR_ASSIGN_OR_RETURN(*count,
                            JsonId(*value, name, int64_t{std::numeric_limits<int32_t>::max()}));
    return Status::Ok();
  };
  PHASOR_RETURN_IF_ERROR(read("start", &out->trim.left_spaces));
  return read("stop", &out->trim.right_spaces);
}

Status ReadDecoderStep(const Json& node, bool* fused, JsonDecoder* out) {
  PHASOR_ASSIGN_OR_RETURN(std::string type, JsonString(node, "type", ""));
  if (type == "Sequence") {
    return ForEach(node, "decoders", [&](const Json& n) { return ReadDecoderStep(n, fused, out); });
  }
  if (type == "ByteLevel") {
    out->byte_level = true;
  } else if (type == "ByteFallback") {
    out->byte_fallback = true;
  } else if (type == "Fuse") {
    *fused = true;
  } else if (type == "Replace") {
    const Json* pattern = JsonMember(node, "pattern");
    PHASOR_ASSIGN_OR_RETURN(std::string from,
                            JsonString(pattern == nullptr ? node : *pattern, "String", ""));
    PHASOR_ASSIGN_OR_RETURN(std::string to, JsonString(node, "content", ""));
    if (from.empty()) {
      return Unsupported("tokenizer.json: decoder Replace: expected a String pattern, found none");
    }
    out->replacements.emplace_back(std::move(from), std::move(to));
  } else if (type == "Metaspace") {
    PHASOR_ASSIGN_OR_RETURN(Metaspace m, ReadMetaspace(node));
    out->trim.first_token_spaces = m.prepend != PrependScheme::kNever;
    out->replacements.emplace_back(m.replacement, " ");
  } else if (type == "Strip") {
    if (!*fused) {
      return Unsupported("tokenizer.json: decoder Strip: expected behind Fuse, found before it");
    }
    return ReadStripDecoder(node, out);
  } else {
    return UnknownType("decoder",
                       "ByteLevel, ByteFallback, Fuse, Replace, Metaspace, Strip, Sequence", type);
  }
  return Status::Ok();
}

}  // namespace

Status ReadJsonDecoder(const Json& node, JsonDecoder* out) {
  bool fused = false;
  return ReadDecoderStep(node, &fused, out);
}

std::string JsonDecoder::Bytes(const std::string& token) const {
  std::string bytes;
  if (byte_level && BytesOfLetters(token, &bytes)) return bytes;
  if (int byte = byte_fallback ? ByteOfToken(token) : -1; byte >= 0) {
    return std::string(1, static_cast<char>(byte));
  }
  bytes = token;
  for (const auto& [from, to] : replacements) {
    for (std::size_t at = 0; (at = bytes.find(from, at)) != bytes.npos; at += to.size()) {
      bytes.replace(at, from.size(), to);
    }
  }
  return bytes;
}

}  // namespace phasor
