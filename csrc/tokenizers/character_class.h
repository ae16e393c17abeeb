// Character classes of the pretokenizer grammars, Unicode 16.0 (the version of tiktoken's and tokenizers'
// regexes).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

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

// A character of a text and the set of its one class.
struct ClassedCharacter {
  ClassSet set;
  uint32_t length;  // in bytes
};

// Two stages for all code points, and one for those below U+10000, which are nearly all that texts hold.
class CharacterTable {
 public:
  static const CharacterTable& instance();

  // The character that starts at `at`, which must be inside of the text.
  ClassedCharacter classify(std::string_view text, size_t at) const {
    const BasicCharacter basic = basic_at(text, at);
    if (basic.length != 0) [[likely]]
      return {ClassSet{basic_[basic.code_point]} & kAllClasses, basic.length};
    const Utf8Character character = decode_utf8(text, at);
    return {class_set(class_of(character.code_point)), character.length};
  }

  // Whether NFC may change, move or compose the character that starts at `at`; `length` becomes its length.
  bool unstable_at(std::string_view text, size_t at, uint32_t& length) const {
    const BasicCharacter basic = basic_at(text, at);
    length = basic.length;
    if (basic.length != 0) [[likely]]
      return (basic_[basic.code_point] & kUnstableBasic) != 0;
    const Utf8Character character = decode_utf8(text, at);
    length = character.length;
    return unstable(character.code_point);
  }

  CharacterClass class_of(uint32_t code_point) const {
    return static_cast<CharacterClass>(entries_[code_point] & kClassMask);
  }
  // NFC may change, move or compose the character.
  bool unstable(uint32_t code_point) const { return (entries_[code_point] & kUnstable) != 0; }

 private:
  static constexpr uint8_t kClassMask = 15;
  static constexpr uint8_t kUnstable = 16;

  // In basic_: the set of the class, and above it
  static constexpr ClassSet kAllClasses = (1 << 10) - 1;
  static constexpr uint16_t kUnstableBasic = 1 << 15;

  struct BasicCharacter {
    uint32_t code_point;
    uint32_t length;  // 0: something else
  };

  // One byte, or three or two bytes that are well-formed.
  static BasicCharacter basic_at(std::string_view text, size_t at) {
    const auto byte = [&](size_t i) {
      return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i]));
    };
    if (byte(0) < 0x80) return {byte(0), 1};
    if (at + 3 > text.size()) return {0, 0};
    const uint32_t word = byte(0) | byte(1) << 8 | byte(2) << 16;
    if ((word & 0xC0C0F0) == 0x8080E0) {
      const uint32_t code_point = (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
      const bool well_formed = code_point >= 0x800 && (code_point & 0xF800) != 0xD800;
      return {code_point, well_formed ? 3u : 0u};
    }
    const uint32_t code_point = (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    const bool well_formed = (word & 0xC0E0) == 0x80C0 && code_point >= 0x80;
    return {code_point, well_formed ? 2u : 0u};
  }

  CharacterTable();

  TwoStageTable entries_;  // class in the low four bits, kUnstable above
  std::vector<uint16_t> basic_;
};

}  // namespace pyllm::tokenizers
