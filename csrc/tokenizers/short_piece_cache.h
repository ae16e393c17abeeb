// Remembers the tokens of short pieces, so that a piece seen before costs one cache line and no decision but
// whether it is here.
//
//   hash -> line of two entries   [key | count | t t t t] [key | count | t t t t]
//                                  newer                   older
//
// A new piece takes the first entry of its line, the one that stood there moves to the second, whose own is
// forgotten. So memory is fixed and a crafted text can only make it useless, never slow.
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

  class Entry {
   public:
    // Writes kMostTokens numbers whatever their count; the end of the tokens.
    TokenId* copy_to(TokenId* out) const {
      std::copy_n(tokens_, kMostTokens, out);
      return out + (high_ >> kCountShift);
    }

   private:
    friend class ShortPieceCache;

    // Zero if the entry is of the key: no branch tells its halves apart. `mask`: which bits of the upper half
    // count.
    uint64_t difference(const PieceKey& key, uint64_t mask) const {
      return (low_ ^ key.low) | ((high_ ^ key.high) & mask);
    }

    uint64_t low_ = 0, high_ = 0;
    TokenId tokens_[kMostTokens] = {};
  };

  // Must be called before anything else.
  void allocate() {
    if (lines_.empty()) lines_ = HugeArray<Line>(kLines);
  }

  void prefetch(uint64_t hash) const { __builtin_prefetch(&lines_[hash % kLines]); }

  // nullptr if the piece is not here.
  const Entry* find(const PieceKey& key, uint64_t hash) const {
    const Entry& entry = candidate(key, hash);
    return entry.difference(key, kOfKey) == 0 ? &entry : nullptr;
  }

  // The same, nullptr also where the tokens are elsewhere.
  const Entry* find_tokens(const PieceKey& key, uint64_t hash) const {
    const Entry& entry = candidate(key, hash);
    return entry.difference(key, kOfKey | kElsewhere) == 0 ? &entry : nullptr;
  }

  void store(const PieceKey& key, uint64_t hash, std::span<const TokenId> tokens) {
    Line& line = lines_[hash % kLines];
    line.entries[1] = line.entries[0];
    Entry& entry = line.entries[0];
    entry.low_ = key.low;
    if (tokens.size() > kMostTokens) {
      entry.high_ = key.high | kElsewhere;
    } else {
      entry.high_ = key.high | uint64_t{tokens.size()} << kCountShift;
      std::copy(tokens.begin(), tokens.end(), entry.tokens_);
    }
  }

 private:
  static constexpr size_t kLines = 1 << 15;
  // The length takes four bits of the key's last byte, the count of tokens three, and the last bit says that
  // they are elsewhere.
  static constexpr unsigned kCountShift = 60;
  static constexpr uint64_t kOfKey = (uint64_t{1} << kCountShift) - 1, kElsewhere = uint64_t{1} << 63;

  struct alignas(64) Line {
    Entry entries[2];
  };

  // The one entry that may be of the key. Which of the two it is is counted on, not jumped on: texts are
  // full of pieces of both.
  const Entry& candidate(const PieceKey& key, uint64_t hash) const {
    const Line& line = lines_[hash % kLines];
    return line.entries[line.entries[0].difference(key, kOfKey) != 0];
  }

  HugeArray<Line> lines_;
};

}  // namespace pyllm::tokenizers
