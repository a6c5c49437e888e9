// What Unicode says about characters, from libutf8proc's tables, and normalization forms that stay
// linear on hostile text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace phasor {

bool IsNumeric(uint32_t code_point);        // Nd, Nl, No
bool IsPunctuation(uint32_t code_point);    // P*, and ASCII symbols as Rust's is_ascii_punctuation
bool IsWordCharacter(uint32_t code_point);  // letters, marks, Nd, Nl, Pc, joiners: Rust's \w

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` must be valid UTF-8.
std::string Normalize(std::string_view text, NormalForm form);

}  // namespace phasor
