// The merges of a byte-pair encoding: (left id, right id) -> (rank, id of the result).
#pragma once

#include <cstdint>
#include <vector>

#include "hash.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

// Lower ranks merge first. kNoRank: the two do not merge.
inline constexpr uint32_t kNoRank = UINT32_MAX;

struct Merge {
  uint32_t rank = kNoRank;
  TokenId merged = kNoToken;
};

struct MergeRule {
  TokenId left, right, merged;
  uint32_t rank;
};

class MergeTable {
 public:
  // A pair that occurs twice keeps its last rule.
  explicit MergeTable(const std::vector<MergeRule>& rules) : slots_(table_capacity(rules.size())) {
    for (const MergeRule& rule : rules) {
      Slot& slot = slots_[locate(key(rule.left, rule.right))];
      slot = {key(rule.left, rule.right), {rule.rank, rule.merged}};
    }
  }

  Merge find(TokenId left, TokenId right) const { return slots_[locate(key(left, right))].merge; }

 private:
  struct Slot {
    uint64_t key = UINT64_MAX;
    Merge merge;
  };

  static uint64_t key(TokenId left, TokenId right) { return uint64_t{left} << 32 | right; }

  size_t locate(uint64_t key) const {
    size_t slot = mix(key) & (slots_.size() - 1);
    while (slots_[slot].key != key && slots_[slot].key != UINT64_MAX) slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }

  std::vector<Slot> slots_;
};

}  // namespace pyllm::tokenizers
