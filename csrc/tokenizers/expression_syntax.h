// The parsed form of a regular expression: Oniguruma's Ruby syntax, which tokenizer.json files are written
// in, as far as it can be matched in linear time. What is left out (references, lookbehind, lookahead of more
// than one character, possessive groups, \b) is an error.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace pyllm::tokenizers {

// One past the last code point stands for a byte that is no character; negated sets contain it.
inline constexpr uint32_t kLastSymbol = 0x110000;

struct SymbolRange {
  uint32_t first, last;
};

// Sorted, without overlap.
using SymbolSet = std::vector<SymbolRange>;

struct ExpressionNode {
  enum class Kind : uint8_t {
    set,        // one character of sets[set]
    sequence,   // of the children
    choice,     // the first child that leads to a match
    repeat,     // the child, least to most times
    lookahead,  // the next character is in sets[set], or the text ends and at_end is true
  };
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  Kind kind = Kind::sequence;
  std::vector<uint32_t> children = {};
  uint32_t set = 0;
  uint32_t least = 0, most = 0;
  bool greedy = true;
  bool at_end = false;
};

struct ParsedExpression {
  std::vector<ExpressionNode> nodes;
  std::vector<SymbolSet> sets;
  uint32_t root = 0;
};

// Throws std::invalid_argument, naming the part that is not understood.
ParsedExpression parse_expression(std::string_view expression);

}  // namespace pyllm::tokenizers
