// Remembers the tokens of short pieces that are not tokens themselves: two entries a cache line. Direct
// mapped and of fixed size: a new piece takes the slot of an old one, so memory is bounded and a crafted text
// can only make it useless, never slow.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "huge_array.h"
#include "piece_key.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class ShortPieceCache {
 public:
  static constexpr size_t kMostTokens = 4;

  // Writes the tokens of the piece, kMostTokens numbers whatever their count; the end, or nullptr if it is
  // not here.
  TokenId* append(const PieceKey& key, uint64_t hash, TokenId* out) const {
    if (entries_.empty()) return nullptr;
    const Entry& entry = entries_[hash % kEntries];
    if (entry.low != key.low || (entry.high & kCountless) != key.high) return nullptr;
    std::copy_n(entry.tokens, kMostTokens, out);
    return out + (entry.high >> kCountShift & 7);
  }

  void store(const PieceKey& key, uint64_t hash, std::span<const TokenId> tokens) {
    if (tokens.size() > kMostTokens) return;
    if (entries_.empty()) entries_ = HugeArray<Entry>(kEntries);
    Entry& entry = entries_[hash % kEntries];
    entry.low = key.low;
    entry.high = key.high | uint64_t{tokens.size()} << kCountShift;
    std::copy(tokens.begin(), tokens.end(), entry.tokens);
  }

 private:
  static constexpr size_t kEntries = 1 << 15;
  // The length takes four bits of the key's last byte, the count of tokens the rest.
  static constexpr unsigned kCountShift = 60;
  static constexpr uint64_t kCountless = (uint64_t{1} << kCountShift) - 1;

  struct alignas(32) Entry {
    uint64_t low = 0, high = 0;
    TokenId tokens[kMostTokens] = {};
  };

  HugeArray<Entry> entries_;
};

}  // namespace pyllm::tokenizers
