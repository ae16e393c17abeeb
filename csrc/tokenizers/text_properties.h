// What the steps of the tokenizers package know of a character. Each step of it has a Unicode version of its
// own, so the table is read off the steps (unicode/generate_tables.py).
#pragma once

#include <cstdint>

namespace pyllm::tokenizers {

enum class TextProperty : uint8_t {
  control = 1,      // BertNormalizer(clean_text) removes it
  bert_accent = 2,  // BertNormalizer(strip_accents) removes it
  accent = 4,       // StripAccents removes it
  punctuation = 8,  // Punctuation and BertPreTokenizer cut it out
  numeric = 16,     // Digits cuts it out
};

bool has_property(uint32_t code_point, TextProperty property);

// White_Space, as in char::is_whitespace.
bool is_whitespace(uint32_t code_point);

// The ideographs that BertNormalizer puts spaces around.
bool is_bert_chinese(uint32_t code_point);

// The lower case of a character that has one of a single character, or the character. U+0130 has two: see
// kDottedI.
uint32_t lower_case(uint32_t code_point);

// Its lower case is "i" and U+0307.
inline constexpr uint32_t kDottedI = 0x130, kCombiningDot = 0x307;

}  // namespace pyllm::tokenizers
