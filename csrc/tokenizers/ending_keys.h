// Which keys of a trie end at each place of a text, however long they are: Aho and Corasick's automaton.
//
//   keys      a   ab   babc
//   text      b   a    b    c
//   node      b   ba   bab  babc     the longest end of what was read that some key begins with; where it has
//   no
//                                    child its failure link leads to the next shorter such end
//   end here  -   a    ab   babc     output links lead through those ends that are keys, the longest first
//
// A byte costs a step down, and each failure link takes back one step: linear in the text and in what is
// found.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "double_array_trie.h"

namespace pyllm::tokenizers {

class EndingKeys {
 public:
  EndingKeys() = default;
  // The trie must stay as it is.
  explicit EndingKeys(const DoubleArrayTrie& trie);

  bool empty() const { return nodes_.empty(); }

  // The node behind `node` and one more byte.
  uint32_t step(const DoubleArrayTrie& trie, uint32_t node, char byte) const {
    while (!trie.step(node, byte) && node != DoubleArrayTrie::kRoot) node = nodes_[node].failure;
    return node;
  }

  // Calls visit(value, length) for each key that ends where the text led to `node`.
  template <typename Visit>
  void for_each(const DoubleArrayTrie& trie, uint32_t node, Visit&& visit) const {
    if (trie.value(node) == DoubleArrayTrie::kNoValue) node = nodes_[node].output;
    for (; node != DoubleArrayTrie::kRoot; node = nodes_[node].output) {
      visit(trie.value(node), nodes_[node].depth);
    }
  }

 private:
  struct Node {
    uint32_t failure = DoubleArrayTrie::kRoot;
    uint32_t output = DoubleArrayTrie::kRoot;  // the longest shorter end that is a key
    uint32_t depth = 0;
  };

  std::vector<Node> nodes_;  // by node of the trie
};

}  // namespace pyllm::tokenizers
