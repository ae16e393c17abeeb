// The merges of a byte-pair encoding: (left id, right id) -> (rank, id of the result).
#pragma once

#include <cstdint>
#include <vector>

#include "frozen_array.h"
#include "hash.h"
#include "sections.h"
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
  explicit MergeTable(const std::vector<MergeRule>& rules);

  Merge find(TokenId left, TokenId right) const { return slots_[locate(slots_, key(left, right))].merge; }

  // A request for where the pair stands.
  void prefetch(TokenId left, TokenId right) const {
    __builtin_prefetch(slots_.data() + (mix(key(left, right)) & (slots_.size() - 1)));
  }

  // In no order.
  std::vector<MergeRule> rules() const;

  void store(SectionWriter& file, const std::string& name) const { file.array(name, slots_); }
  // Throws std::invalid_argument for merges of ids that `tokens` lacks or whose lengths do not add up, and
  // for a table that a search would not end in.
  MergeTable(const SectionReader& file, const std::string& name, const TokenBytes& tokens);

 private:
  struct Slot {
    uint64_t key = UINT64_MAX;
    Merge merge;
  };

  static uint64_t key(TokenId left, TokenId right) { return uint64_t{left} << 32 | right; }

  template <typename Slots>
  static size_t locate(const Slots& slots, uint64_t key) {
    size_t slot = mix(key) & (slots.size() - 1);
    while (slots[slot].key != key && slots[slot].key != UINT64_MAX) slot = (slot + 1) & (slots.size() - 1);
    return slot;
  }

  FrozenArray<Slot> slots_;
};

}  // namespace pyllm::tokenizers
