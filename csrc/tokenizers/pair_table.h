// Pairs of neighbouring tokens, found by their ids.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "hash.h"
#include "memory_budget.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

struct Pair {
  TokenId left, right;
  int64_t count = 0;
  uint32_t passed = 0;           // so many places at the front are known to hold the pair no longer
  std::vector<uint32_t> places;  // ascending; where it has stood, some may be out of date
};

class PairTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit PairTable(MemoryBudget& budget) : budget_(&budget) { resize(1 << 12); }
  PairTable(const PairTable&) = delete;
  PairTable& operator=(const PairTable&) = delete;
  ~PairTable() { budget_->give_back(taken_); }

  Pair& operator[](uint32_t index) { return pairs_[index]; }

  // kNone if it is not here.
  uint32_t find(TokenId left, TokenId right) const {
    const uint64_t key = key_of(left, right);
    const size_t slot = locate(key);
    return keys_[slot] == key ? indices_[slot] : kNone;
  }

  uint32_t find_or_add(TokenId left, TokenId right) {
    const uint64_t key = key_of(left, right);
    size_t slot = locate(key);
    if (keys_[slot] == key) return indices_[slot];
    if ((pairs_.size() + 1) * 2 > keys_.size()) {
      resize(keys_.size() * 2);
      slot = locate(key);
    }
    keys_[slot] = key;
    indices_[slot] = static_cast<uint32_t>(pairs_.size());
    pairs_.push_back({left, right, 0, 0, {}});
    return indices_[slot];
  }

 private:
  static constexpr uint64_t kFree = UINT64_MAX;

  static uint64_t key_of(TokenId left, TokenId right) { return uint64_t{left} << 32 | right; }

  size_t locate(uint64_t key) const {
    size_t slot = spread(key) & (keys_.size() - 1);
    while (keys_[slot] != key && keys_[slot] != kFree) slot = (slot + 1) & (keys_.size() - 1);
    return slot;
  }

  void resize(size_t slots) {
    // Every second slot at most holds a pair.
    const size_t bytes = slots * (sizeof(uint64_t) + sizeof(uint32_t)) + slots / 2 * sizeof(Pair);
    budget_->take(bytes, "the table of pairs");
    keys_.assign(slots, kFree);
    indices_.assign(slots, 0);
    for (uint32_t i = 0; i < pairs_.size(); ++i) {
      const size_t slot = locate(key_of(pairs_[i].left, pairs_[i].right));
      keys_[slot] = key_of(pairs_[i].left, pairs_[i].right);
      indices_[slot] = i;
    }
    budget_->give_back(taken_);
    taken_ = bytes;
  }

  MemoryBudget* budget_;
  size_t taken_ = 0;
  std::vector<uint64_t> keys_;
  std::vector<uint32_t> indices_;  // in pairs_
  std::deque<Pair> pairs_;         // grows without moving
};

}  // namespace pyllm::tokenizers
