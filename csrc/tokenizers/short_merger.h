// Merging of short pieces as it is defined, the pair of the lowest rank first, without any memory but a few
// words:
//
//   symbols    p  r  e  f  e  r      16 or so, each with rank << 5 | place of the pair that it begins, so
//   that next      70 31 12 55 31  -      one minimum tells which pair is next and, of equal ranks, the
//   leftmost alive      1  1  1  1  1  1      a bit a symbol: neighbours are found by counting zeros
//
// Most pairs are none, which a bit of a table that fits the second-level cache tells.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string_view>
#include <vector>

#include "huge_array.h"
#include "merge_table.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class ShortMerger {
 public:
  static constexpr size_t kMostSymbols = 32;
  // More ranks cannot stand beside a place.
  static constexpr uint32_t kMostRanks = uint32_t{1} << 27;

  // Rules of ranks below kMostRanks.
  explicit ShortMerger(const std::vector<MergeRule>& rules);

  // Merges the first `count` symbols in place; how many are left.
  size_t merge(TokenId* symbols, size_t count) const;

 private:
  struct Slot {
    TokenId left = kNoToken, right = kNoToken, merged = kNoToken;
    uint32_t rank = kNoRank;
  };

  static uint64_t hash(TokenId left, TokenId right) {
    return (left * 0x9E3779B97F4A7C15u ^ std::rotl(right * 0xD1B54A32D192ED03u, 32)) * 0xBF58476D1CE4E5B9u;
  }
  uint64_t bit_of(uint64_t hash) const { return hash >> filter_shift_; }

  // kNoRank where the two do not merge; `merged` is then left as it is.
  uint32_t find(TokenId left, TokenId right, TokenId& merged) const {
    const uint64_t h = hash(left, right);
    const uint64_t bit = bit_of(h);
    if ((filter_[bit >> 6] >> (bit & 63) & 1) == 0) return kNoRank;
    for (size_t at = h >> slot_shift_;; at = (at + 1) & (slots_.size() - 1)) {
      const Slot& slot = slots_[at];
      if (slot.left == left && slot.right == right) {
        merged = slot.merged;
        return slot.rank;
      }
      if (slot.rank == kNoRank) return kNoRank;
    }
  }

  HugeArray<Slot> slots_;
  HugeArray<uint64_t> filter_;
  unsigned slot_shift_, filter_shift_;
};

}  // namespace pyllm::tokenizers
