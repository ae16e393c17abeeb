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
    // The piece has more tokens than an entry holds: PieceCache keeps them.
    bool elsewhere() const { return high_ >> kCountShift > kMostTokens; }

    // Writes kMostTokens numbers whatever their count; the end of the tokens.
    TokenId* copy_to(TokenId* out) const {
      std::copy_n(tokens_, kMostTokens, out);
      return out + (high_ >> kCountShift);
    }

   private:
    friend class ShortPieceCache;

    // One comparison, so that no branch tells the halves of the key apart.
    bool is(const PieceKey& key) const { return ((low_ ^ key.low) | ((high_ & kCountless) ^ key.high)) == 0; }

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
    const Line& line = lines_[hash % kLines];
    const bool newer = line.entries[0].is(key), older = line.entries[1].is(key);
    return newer | older ? &line.entries[older] : nullptr;
  }

  void store(const PieceKey& key, uint64_t hash, std::span<const TokenId> tokens) {
    Line& line = lines_[hash % kLines];
    line.entries[1] = line.entries[0];
    Entry& entry = line.entries[0];
    const size_t count = std::min(tokens.size(), kMostTokens + 1);
    entry.low_ = key.low;
    entry.high_ = key.high | uint64_t{count} << kCountShift;
    if (!entry.elsewhere()) std::copy(tokens.begin(), tokens.end(), entry.tokens_);
  }

 private:
  static constexpr size_t kLines = 1 << 15;
  // The length takes four bits of the key's last byte, the count of tokens the rest.
  static constexpr unsigned kCountShift = 60;
  static constexpr uint64_t kCountless = (uint64_t{1} << kCountShift) - 1;

  struct alignas(64) Line {
    Entry entries[2];
  };

  HugeArray<Line> lines_;
};

}  // namespace pyllm::tokenizers
