#include "formats/tokenizer/pipeline.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "formats/utf8.h"

namespace phasor {
namespace {

// Workspaces kept between calls; more callers at once get fresh ones.
constexpr std::size_t kMaxFreeWorkspaces = 8;
// Models count bytes of a piece in 32 bits, so longer ones are cut (at a character).
constexpr std::size_t kMaxPieceBytes = std::size_t{1} << 30;

constexpr std::array<std::string_view, 16> kEndTexts = {
    "<|im_end|>",      "<|eot_id|>", "<|eom_id|>",          "<|end|>",
    "<|endoftext|>",   "</s>",       "<end_of_turn>",       "<|end_of_text|>",
    "<EOT>",           "<|eot|>",    "<|end_of_turn|>",     "<|END_OF_TURN_TOKEN|>",
    "<|endofprompt|>", "<eos>",      "<|end_of_sentence|>", "<｜end▁of▁sentence｜>",
};

}  // namespace

void AddWellKnownEnds(TokenizerParts* parts) {
  if (parts->eos_id >= 0) parts->end_ids.insert(parts->eos_id);
  for (const AddedToken& token : parts->added) {
    if (token.special &&
        std::find(kEndTexts.begin(), kEndTexts.end(), token.content) != kEndTexts.end()) {
      parts->end_ids.insert(token.id);
    }
  }
}

PipelineTokenizer::PipelineTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
  PHASOR_CHECK(parts_.model != nullptr && parts_.special.size() == parts_.token_bytes.size());
  auto ws = TakeWorkspace();
  for (AddedToken token : parts_.added) {
    if (token.normalized) {
      // Such a token is looked for in normalized text, so it has to be normalized as well.
      token.content = std::string(
          parts_.normalizer.Apply(token.content, true, &ws->pre_tokenizer.regex, &ws->normalized));
      normalized_tokens_.Add(token);
    } else {
      raw_tokens_.Add(token);
    }
  }
  ReturnWorkspace(std::move(ws));
}

std::unique_ptr<PipelineTokenizer::Workspace> PipelineTokenizer::TakeWorkspace() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (free_.empty()) return std::make_unique<Workspace>();
  auto workspace = std::move(free_.back());
  free_.pop_back();
  return workspace;
}

void PipelineTokenizer::ReturnWorkspace(std::unique_ptr<Workspace> workspace) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (free_.size() < kMaxFreeWorkspaces) free_.push_back(std::move(workspace));
}

bool PipelineTokenizer::add_bos() const {
  return parts_.bos_id >= 0 && !parts_.prefix_ids.empty() && parts_.prefix_ids[0] == parts_.bos_id;
}

bool PipelineTokenizer::add_eos() const {
  return parts_.eos_id >= 0 && !parts_.suffix_ids.empty() &&
         parts_.suffix_ids.back() == parts_.eos_id;
}

std::vector<int32_t> PipelineTokenizer::Encode(std::string_view text,
                                               const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  if (options.add_special) ids = parts_.prefix_ids;
  std::string replaced;
  if (options.invalid_utf8 == InvalidUtf8::kReplace && !IsValidUtf8(text)) {
    replaced = ReplaceInvalidUtf8(text);
    text = replaced;
  }
  auto ws = TakeWorkspace();
  ws->spans.clear();
  raw_tokens_.Split(text, options.parse_special, &ws->spans);
  for (const AddedTokenSpan& span : ws->spans) {
    if (span.id >= 0) {
      ids.push_back(span.id);
    } else {
      EncodeSection({text.substr(span.begin, span.end - span.begin), span.begin == 0, true,
                     options.parse_special},
                    ws.get(), &ids);
    }
  }
  ReturnWorkspace(std::move(ws));
  if (options.add_special) {
    ids.insert(ids.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
  }
  return ids;
}

void PipelineTokenizer::EncodeSection(Section section, Workspace* ws,
                                      std::vector<int32_t>* ids) const {
  if (IsValidUtf8(section.text)) {
    EncodeValid(section, ws, ids);
    return;
  }
  std::string_view text = section.text;
  for (std::size_t begin = 0; begin < text.size();) {
    bool valid = NextUtf8(text, begin).valid;
    std::size_t end = begin;
    while (end < text.size()) {
      Utf8Unit unit = NextUtf8(text, end);
      if (unit.valid != valid) break;
      end += unit.size;
    }
    std::string_view part = text.substr(begin, end - begin);
    if (valid) {
      bool first = begin == 0;
      EncodeValid({part, section.text_start && first, first, section.match_special}, ws, ids);
    } else {
      EncodeDamage(part, ws, ids);
    }
    begin = end;
  }
}

void PipelineTokenizer::EncodeDamage(std::string_view bytes, Workspace* ws,
                                     std::vector<int32_t>* ids) const {
  for (char c : bytes) {
    int32_t id = parts_.model->ByteId(static_cast<uint8_t>(c));
    if (id >= 0) {
      ids->push_back(id);
    } else {
      EncodePieces(kReplacementCharacter, false, ws, ids);
    }
  }
}

void PipelineTokenizer::EncodeValid(Section section, Workspace* ws,
                                    std::vector<int32_t>* ids) const {
  std::string_view text = section.text;
  if (!parts_.normalizer.empty()) {
    text = parts_.normalizer.Apply(text, section.section_start, &ws->pre_tokenizer.regex,
                                   &ws->normalized);
  }
  if (normalized_tokens_.empty()) {
    EncodePieces(text, section.text_start, ws, ids);
    return;
  }
  ws->normalized_spans.clear();
  normalized_tokens_.Split(text, section.match_special, &ws->normalized_spans);
  for (const AddedTokenSpan& span : ws->normalized_spans) {
    if (span.id >= 0) {
      ids->push_back(span.id);
    } else {
      EncodePieces(text.substr(span.begin, span.end - span.begin),
                   section.text_start && span.begin == 0, ws, ids);
    }
  }
}

void PipelineTokenizer::EncodePieces(std::string_view text, bool text_start, Workspace* ws,
                                     std::vector<int32_t>* ids) const {
  parts_.pre_tokenizer.Split(text, text_start, &ws->pre_tokenizer);
  for (const TextPiece& piece : ws->pre_tokenizer.pieces) {
    std::string_view rest = piece.text;
    while (rest.size() > kMaxPieceBytes) {
      std::size_t cut = kMaxPieceBytes;
      while ((static_cast<unsigned char>(rest[cut]) & 0xC0) == 0x80) --cut;
      parts_.model->Encode(rest.substr(0, cut), &ws->model, ids);
      rest.remove_prefix(cut);
    }
    parts_.model->Encode(rest, &ws->model, ids);
  }
  ws->pre_tokenizer.rewritten.clear();
}

std::string PipelineTokenizer::TokenBytes(int32_t id, bool skip_special) const {
  if (!InRange(id) || (skip_special && parts_.special[id])) return std::string();
  return parts_.token_bytes[id];
}

std::string PipelineTokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  bool first = true;
  for (int32_t id : ids) {
    if (!InRange(id) || (skip_special && parts_.special[id])) continue;
    const std::string& bytes = parts_.token_bytes[id];
    if (first && parts_.trim.first_token_spaces) {
      std::copy_if(bytes.begin(), bytes.end(), std::back_inserter(text),
                   [](char c) { return c != ' '; });
    } else {
      text += bytes;
    }
    first = false;
  }
  std::size_t begin = 0, end = text.size();
  for (int n = 0; n < parts_.trim.left_spaces && begin < end && text[begin] == ' '; ++n) ++begin;
  for (int n = 0; n < parts_.trim.right_spaces && end > begin && text[end - 1] == ' '; ++n) --end;
  return begin == 0 && end == text.size() ? text : text.substr(begin, end - begin);
}

}  // namespace phasor
