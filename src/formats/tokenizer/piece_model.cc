#include "formats/tokenizer/piece_model.h"

#include <array>

#include "formats/utf8.h"

namespace phasor {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

bool PrintsItself(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

// Code points of the 256 letters lie below 0x144.
constexpr uint32_t kLetterEnd = 0x144;

struct LetterTable {
  std::array<std::string, 256> letter;
  std::array<int16_t, kLetterEnd> byte;
  LetterTable() {
    byte.fill(-1);
    uint32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      uint32_t code_point = PrintsItself(b) ? static_cast<uint32_t>(b) : next++;
      AppendUtf8(code_point, &letter[b]);
      byte[code_point] = static_cast<int16_t>(b);
    }
  }
};

const LetterTable& Letters() {
  static const LetterTable table;
  return table;
}

}  // namespace

int ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int high = HexDigit(token[3]), low = HexDigit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

const std::string& ByteLetter(uint8_t byte) { return Letters().letter[byte]; }

bool BytesOfLetters(std::string_view text, std::string* bytes) {
  bytes->clear();
  for (std::size_t i = 0; i < text.size();) {
    Utf8Unit unit = NextUtf8(text, i);
    if (!unit.valid) return false;
    uint32_t c = DecodeUtf8(text, i);
    if (c >= kLetterEnd || Letters().byte[c] < 0) return false;
    bytes->push_back(static_cast<char>(Letters().byte[c]));
    i += unit.size;
  }
  return true;
}

bool WordCache::Key(std::string_view word, uint64_t key[3]) {
  if (word.size() > kMaxWordBytes) return false;
  char buffer[24] = {};
  std::memcpy(buffer, word.data(), word.size());
  buffer[23] = static_cast<char>(word.size() + 1);  // never the key of an empty entry
  std::memcpy(key, buffer, sizeof(buffer));
  return true;
}

std::size_t WordCache::Slot(const uint64_t key[3]) {
  uint64_t h = key[0] * 0x9e3779b97f4a7c15ull;
  h = (h ^ (h >> 32) ^ key[1]) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 29) ^ key[2]) * 0x94d049bb133111ebull;
  return (h >> 40) & (kEntries - 1);
}

bool WordCache::Find(std::string_view word, std::vector<int32_t>* ids) const {
  uint64_t key[3];
  if (!Key(word, key)) return false;
  const Entry& e = entries_[Slot(key)];
  if (e.text[0] != key[0] || e.text[1] != key[1] || e.text[2] != key[2]) return false;
  ids->insert(ids->end(), e.ids, e.ids + e.n_ids);
  return true;
}

void WordCache::Insert(std::string_view word, const int32_t* ids, std::size_t n_ids) {
  uint64_t key[3];
  if (n_ids > kMaxIds || !Key(word, key)) return;
  Entry& e = entries_[Slot(key)];
  std::memcpy(e.text, key, sizeof(key));
  e.n_ids = static_cast<uint32_t>(n_ids);
  std::copy_n(ids, n_ids, e.ids);
}

void MetaspaceCutter::AddToken(std::string_view token) {
  for (std::size_t at = 0; (at = token.find(kMetaspace, at)) != token.npos;
       at += kMetaspace.size()) {
    bool behind_mark = at >= kMetaspace.size() &&
                       token.substr(at - kMetaspace.size(), kMetaspace.size()) == kMetaspace;
    if (at > 0 && !behind_mark) allowed_ = false;
  }
}

std::size_t MetaspaceCutter::FirstPart(std::string_view text) {
  std::size_t at = 0;
  while (text.substr(at).starts_with(kMetaspace)) at += kMetaspace.size();
  at = text.find(kMetaspace, at);
  return at == text.npos ? text.size() : at;
}

}  // namespace phasor
