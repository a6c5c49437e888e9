// Names from files, made safe for messages.
#pragma once

#include <string>
#include <string_view>

namespace phasor {

// ASCII letters, digits and signs as they are, other bytes as \xNN, at most 80 input bytes: a
// hostile file must not be able to write control codes or a page of text to the terminal.
inline std::string Printable(std::string_view text) {
  constexpr std::size_t kMaxBytes = 80;
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (char c : text.substr(0, kMaxBytes)) {
    auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  if (text.size() > kMaxBytes) out += "...";
  return out;
}

}  // namespace phasor
