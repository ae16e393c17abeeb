// SentencePiece's precompiled normalization rules: byte strings and what they become.
//
//   blob   size of the trie | double array of 32-bit units | texts, each ending in a zero byte
//   unit   offset (22 bits) | offset is in blocks | has a leaf | label (8 bits)      a leaf holds the place
//   of its text
//
// The blob comes with a model file, so every index is checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pyllm::tokenizers {

class Charsmap {
 public:
  struct Match {
    size_t length = 0;  // of the text that is replaced; 0: no rule
    std::string_view replacement;
  };

  // An empty blob has no rules. Throws std::invalid_argument for a blob that is cut or inconsistent.
  explicit Charsmap(std::string_view blob);

  // The longest rule for the bytes that start at text[at].
  Match longest_at(std::string_view text, size_t at) const { return find(text.substr(at), false); }

  // Whether a text that is cut before a space which follows a printing ASCII character becomes the same part
  // by part, the last character before the cut whatever stands before it.
  bool is_local() const;

  // The shortest one: all that the tokenizers package looks at.
  Match shortest(std::string_view text) const { return find(text, true); }

 private:
  Match find(std::string_view text, bool shortest) const;

  std::vector<uint32_t> units_;
  std::string texts_;
};

}  // namespace pyllm::tokenizers
