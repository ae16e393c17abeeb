// Byte-pair encoding without merging: the longest token that fits, in linear time.
//
//   text      p r e f e r r e d
//   try       [prefer]                 the longest token here
//   then      [prefer][red]            pair refused: merges would have made something across the border
//             [prefer][re]             the next shorter one; if none is left, the token before is shortened
//             instead
//
// What merging leads to is the only sequence of tokens in which every two neighbours would stay apart if they
// were encoded alone: merges inside of one token do not see the others, and the first merge that crosses a
// border would cross it in that pair alone too. So it is enough to look for such a sequence from left to
// right. As the encoding of every prefix is unique, a place where no token fits is dead for good, and each
// place is tried once: linear time.
//
// Whether a pair stays apart, and for which merges all this holds, says token_parts.h.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "merge_table.h"
#include "token_parts.h"
#include "token_trie.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

// Working memory of one thread.
struct LongestMatchScratch {
  std::vector<bool> dead;  // places of a piece where no token fits
};

class LongestMatchEncoder {
 public:
  // nullptr where the order of the merges is not proven; arguments as those of TokenParts::prove.
  static std::unique_ptr<LongestMatchEncoder> prove(const TokenBytes& tokens,
                                                    const std::array<TokenId, 256>& byte_tokens,
                                                    const std::vector<MergeRule>& rules,
                                                    const MergeTable& merges);

  // Whether merging the token's own bytes gives it.
  bool reachable(TokenId id) const { return parts_.reachable(id); }

  // The rules that texts can use.
  std::vector<MergeRule> used_rules(const MergeTable& merges) const { return parts_.used_rules(merges); }

  // Appends the ids; false, and nothing appended, if the piece has a byte without token.
  bool encode(std::string_view piece, LongestMatchScratch& scratch, std::vector<TokenId>& out) const;

 private:
  LongestMatchEncoder(TokenParts parts, const TokenBytes& tokens, const std::vector<TokenId>& reachable);

  TokenParts parts_;
  TokenTrie trie_;
};

}  // namespace pyllm::tokenizers
