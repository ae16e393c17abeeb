// The order in which texts can use merges: mostly that of their ranks.
//
// Merging takes the lowest rank that is possible, so a rule that ranks before the one that makes one of its
// parts follows that one at once; and so on, where what it makes is a part of another such rule:
//
//   rank 1000   p q -> X          the root
//   rank  900   X w -> Xw         follows it: depth 1
//   rank  800   z Xw -> zXw       depth 2
//
// To let them wait until the root has run everywhere, and then go by depth and rank, is the same as long as
// no two places of X compete for a neighbour: `w` must not begin another place of the root, nor be taken from
// both sides, nor be made of X itself. Llama 3 has such rules: " прим" + "ен" ranks before the merge that
// makes " прим".
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "merge_table.h"

namespace pyllm::tokenizers {

class TokenParts;

class MergeOrder {
 public:
  // Rules sorted by rank.
  explicit MergeOrder(const std::vector<MergeRule>& rules);

  size_t size() const { return places_.size(); }
  const MergeRule& operator[](size_t i) const { return places_[i].rule; }

  // Moves rules behind those that make their parts; false where that may not be the same. `parts` were learnt
  // in the present order.
  bool move_behind_parts(const std::vector<MergeRule>& early, const TokenParts& parts);

 private:
  struct Place {
    uint32_t root_rank, depth;
    TokenId root;
    MergeRule rule;
  };

  const Place& maker_of(TokenId id, const TokenParts& parts) const;
  bool move(const MergeRule& rule, const TokenParts& parts);

  std::vector<Place> places_;
  std::map<std::pair<TokenId, TokenId>, Place> moved_;           // by the parts of the rule
  std::map<std::pair<TokenId, TokenId>, bool> taken_from_left_;  // by root and neighbour
};

}  // namespace pyllm::tokenizers
