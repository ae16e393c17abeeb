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
// Whether a pair stays apart is found by running both tokens' merges backwards: of the last symbol of the one
// and the first symbol of the other, the one that was merged later is taken apart; at each step a merge of
// the two would have to come before either is merged away.
//
//   [prefer|red]   prefer <- pre fer     fer|red   fer <- f er    er|red    red <- re d    er|re    ...
//
// This needs merges in ascending order: each ranks after those that make its parts. The constructor proves
// it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "merge_table.h"
#include "token_trie.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

// Working memory of one thread: a bounded memo of pairs, and the dead places of a piece.
struct LongestMatchScratch {
  static constexpr size_t kPairs = 1 << 14;
  std::vector<uint64_t> pairs;
  std::vector<bool> dead;
};

class LongestMatchEncoder {
 public:
  // nullptr where the merges are not in ascending order. `byte_tokens` are the symbols that merging starts
  // from; rules are sorted by rank, and `merges` holds the same; both tables must outlive the encoder.
  static std::unique_ptr<LongestMatchEncoder> prove(const TokenBytes& tokens,
                                                    const std::array<TokenId, 256>& byte_tokens,
                                                    const std::vector<MergeRule>& rules,
                                                    const MergeTable& merges);

  // Whether merging the token's own bytes gives it.
  bool reachable(TokenId id) const { return parts_[id].length != 0; }

  // Appends the ids; false, and nothing appended, if the piece has a byte without token.
  bool encode(std::string_view piece, LongestMatchScratch& scratch, std::vector<TokenId>& out) const;

 private:
  // How merging makes a token.
  struct Parts {
    TokenId left = kNoToken, right = kNoToken;
    uint32_t time = 0;    // 0 for a byte, else rank of the last merge + 1
    uint32_t length = 0;  // in bytes; 0: merging does not make it
  };

  LongestMatchEncoder(const TokenBytes& tokens, const MergeTable& merges)
      : merges_(merges), parts_(tokens.size()) {}

  bool usable(const MergeRule& rule) const;
  bool learn(const TokenBytes& tokens, const std::vector<MergeRule>& rules);
  bool crosses_inside(TokenId left, TokenId right) const;
  bool stay_apart(TokenId left, TokenId right) const;
  bool stay_apart(TokenId left, TokenId right, LongestMatchScratch& scratch) const;

  const MergeTable& merges_;
  std::vector<Parts> parts_;
  std::vector<TokenId> shorter_;  // the longest token that the token begins with
  std::unique_ptr<TokenTrie> trie_;
};

}  // namespace pyllm::tokenizers
