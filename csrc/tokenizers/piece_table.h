// The whole-piece table: pieces that are one token, so that no merge is looked at.
//
//   piece -> key (two words) -> slot = hash & mask -> [key | id] [key | id] ... until the key or a free slot
//
// One cache line answers; slots are filled by ascending id, so frequent tokens stand in their first slot.
// Longer pieces are found by a hash of all their bytes.
#pragma once

#include <string_view>
#include <vector>

#include "huge_array.h"
#include "piece_key.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class PieceTable {
 public:
  explicit PieceTable(const TokenBytes& tokens) : long_tokens_(tokens) {}

  // Takes the ids in, ascending; of tokens with equal bytes the first one stays.
  void fill(const TokenBytes& tokens, const std::vector<TokenId>& ids);

  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_]); }

  // kNoToken if no token has these bytes.
  TokenId find(const PieceKey& key, uint64_t hash) const {
    for (uint64_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.key == key) return slot.id;
      if (slot.key.none()) return kNoToken;
    }
  }
  // Of pieces longer than kShortPiece.
  TokenId find_long(std::string_view piece) const { return long_tokens_.find(piece); }

 private:
  struct alignas(32) Slot {
    PieceKey key;
    TokenId id = kNoToken;
  };

  HugeArray<Slot> slots_{1};
  uint64_t mask_ = 0;
  TokenTable long_tokens_;
};

}  // namespace pyllm::tokenizers
