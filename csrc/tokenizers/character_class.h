// Character classes of the pretokenizer grammars, Unicode 16.0 (the version of tiktoken's and tokenizers'
// regexes).
#pragma once

#include <cstdint>

#include "two_stage_table.h"

namespace pyllm::tokenizers {

inline constexpr const char* kUnicodeVersion = "16.0.0";

// Disjoint; the order is that of unicode/generate_tables.py.
enum class CharacterClass : uint8_t {
  other,    // none of the following: punctuation, symbols, controls, unassigned, bytes that are not UTF-8
  word,     // \w outside of letters, marks and numbers: connectors, joiners, circled letters
  upper,    // Lu, Lt
  lower,    // Ll
  letter,   // Lm, Lo
  mark,     // M
  digit,    // Nd, Nl
  number,   // No
  space,    // White_Space but for the next
  newline,  // \r \n
};

// A set of classes, one bit each.
using ClassSet = uint32_t;

constexpr ClassSet class_set(CharacterClass c) { return ClassSet{1} << static_cast<int>(c); }

template <typename... Rest>
constexpr ClassSet class_set(CharacterClass first, Rest... rest) {
  return class_set(first) | class_set(rest...);
}

inline constexpr ClassSet kLetters =
    class_set(CharacterClass::upper, CharacterClass::lower, CharacterClass::letter);
inline constexpr ClassSet kNumbers = class_set(CharacterClass::digit, CharacterClass::number);
inline constexpr ClassSet kNewlines = class_set(CharacterClass::newline);
inline constexpr ClassSet kSpaces = class_set(CharacterClass::space, CharacterClass::newline);
// [^\s\p{L}\p{N}]
inline constexpr ClassSet kSymbols =
    class_set(CharacterClass::other, CharacterClass::word, CharacterClass::mark);
// \w
inline constexpr ClassSet kWordCharacters =
    kLetters | class_set(CharacterClass::word, CharacterClass::mark, CharacterClass::digit);

// Class in the low four bits, kUnstable above.
class CharacterTable {
 public:
  static const CharacterTable& instance();

  CharacterClass class_of(uint32_t code_point) const {
    return static_cast<CharacterClass>(entries_[code_point] & kClassMask);
  }
  // NFC may change, move or compose the character.
  bool unstable(uint32_t code_point) const { return (entries_[code_point] & kUnstable) != 0; }

 private:
  static constexpr uint8_t kClassMask = 15;
  static constexpr uint8_t kUnstable = 16;

  CharacterTable();

  TwoStageTable entries_;
};

}  // namespace pyllm::tokenizers
