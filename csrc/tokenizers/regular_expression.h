// Regular expressions without backtracking: an automaton that is built when the expression is loaded.
//
//   expression -> nodes -> instructions -> states                       text -> character class -> next state
//
// Of the matches that start at the leftmost place, Perl's rule chooses: the first alternative that leads to a
// match, the longest run for a greedy repeat. An ordered list of instructions holds what is still possible,
// best first; each different list is one state. A lookahead of one character is decided when that character
// is read, so it needs no looking ahead. Characters that no set of the expression tells apart share a class,
// so a state is a short row.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "aligned_text.h"
#include "expression_syntax.h"
#include "two_stage_table.h"

namespace pyllm::tokenizers {

class RegularExpression {
 public:
  // Throws std::invalid_argument for syntax that is not supported (see expression_syntax.h) and for an
  // expression whose automaton is too large.
  explicit RegularExpression(std::string_view expression);

  // Appends the matches, left to right. As in Oniguruma's search, an empty match does not follow another
  // match at once.
  void find_all(std::string_view text, std::vector<Span>& matches) const;

 private:
  static constexpr size_t kNoMatch = SIZE_MAX;
  static constexpr uint32_t kDead = 0, kStart = 1;

  // An attempt that failed far from its start leaves the states it went through, so that the attempts that
  // start inside of it stop where they meet it: a long run costs its length once.
  using FailedStates = std::vector<uint32_t>;

  size_t match_at(std::string_view text, size_t begin, FailedStates& failed) const;
  void remember_failure(std::string_view text, size_t begin, size_t end, FailedStates& failed) const;

  struct Symbol {
    uint32_t number;  // class, or the number of classes at the end
    uint32_t length;
  };
  Symbol symbol_at(std::string_view text, size_t at) const;

  struct Automaton {
    TwoStageTable classes;
    uint32_t columns;  // classes and the end of the text
    std::vector<uint32_t>
        transitions;  // state * columns + symbol -> next state << 1 | a match ends before the symbol
  };
  static Automaton build(std::string_view expression);

  Automaton automaton_;
};

}  // namespace pyllm::tokenizers
