// Applies merges to one piece: again and again the adjacent pair of the lowest rank, of equal ranks the
// leftmost.
//
//   symbols   l   o   w   e   r        ranks between neighbours   l+o 40 | o+w 55 | w+e - | e+r 12
//   e+r       l   o   w   er           only the neighbours of what was joined are looked up again
//   l+o       lo  w   er
//
// Up to 64 symbols the lowest rank is searched for in the row of ranks. Beyond, the symbols are a linked list
// and a heap holds the ranks; an entry whose pair has changed is dropped when it comes up.
#pragma once

#include <cstdint>
#include <vector>

#include "merge_table.h"

namespace pyllm::tokenizers {

// Working memory of a merger, reused from piece to piece.
class Merger {
 public:
  // Merges `symbols` in place.
  void merge(const MergeTable& table, std::vector<TokenId>& symbols);

  // Gives memory that a very long piece has taken back to the system.
  void trim();

 private:
  // A symbol of a long piece, in a doubly linked list.
  struct Node {
    TokenId id;
    uint32_t rank;  // of the merge with the next node
    TokenId merged;
    uint32_t previous, next;
  };

  void merge_short(const MergeTable& table, std::vector<TokenId>& symbols);
  void merge_long(const MergeTable& table, std::vector<TokenId>& symbols);
  bool rank_node(const MergeTable& table, uint32_t at);
  void rank_again(const MergeTable& table, uint32_t at);
  void join_with_next(const MergeTable& table, uint32_t at);

  std::vector<Merge> merges_;
  std::vector<Node> nodes_;
  std::vector<uint64_t> heap_;  // rank << 32 | node, smallest first
};

}  // namespace pyllm::tokenizers
