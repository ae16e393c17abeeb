// What words have become, by their bytes before anything was done to them: short ones by key, longer ones and
// those of many tokens by hash.
//
//   hash -> line of 64 bytes: two entries {key, count, 4 numbers}, the one that came last in front
//
// Of fixed size: a new word takes the place of the older one of its line, so a crafted text can only make it
// useless, never slow.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hash.h"
#include "huge_array.h"
#include "piece_cache.h"
#include "piece_key.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

// A word on its way through the memory.
struct Word {
  // readable: how many bytes can be read from the word's first on.
  Word(std::string_view word, size_t readable) : bytes(word) {
    if (word.size() <= kShortPiece) {
      key = readable >= sizeof(PieceKey) ? load_key(word.data(), word.size()) : key_of(word);
      hash = key.hash();
    } else {
      hash = hash_bytes(word);
    }
  }

  std::string_view bytes;
  PieceKey key;  // none for long words
  uint64_t hash;
};

class WordMemory {
 public:
  // Appends the numbers that were stored with the word; false if there are none.
  bool append(const Word& word, std::vector<TokenId>& out) const {
    if (!word.key.none() && !lines_.empty()) {
      for (const Entry& entry : lines_[word.hash % kLines].entries) {
        if (entry.low != word.key.low || (entry.high & kCountless) != word.key.high) continue;
        out.insert(out.end(), entry.numbers, entry.numbers + (entry.high >> kCountShift));
        return true;
      }
    }
    return long_.append(word.bytes, word.hash, out);
  }

  void store(const Word& word, std::span<const TokenId> numbers) {
    if (word.key.none() || numbers.size() > kMostNumbers) {
      long_.store(word.bytes, word.hash, numbers);
      return;
    }
    if (lines_.empty()) lines_ = HugeArray<Line>(kLines);
    Entry* entries = lines_[word.hash % kLines].entries;
    entries[1] = entries[0];
    entries[0] = {word.key.low, word.key.high | uint64_t{numbers.size()} << kCountShift, {}};
    std::copy(numbers.begin(), numbers.end(), entries[0].numbers);
  }

 private:
  static constexpr size_t kLines = 1 << 15, kMostNumbers = 4;
  // The length takes four bits of the key's last byte, the count of numbers the rest.
  static constexpr unsigned kCountShift = 60;
  static constexpr uint64_t kCountless = (uint64_t{1} << kCountShift) - 1;

  struct Entry {
    uint64_t low = 0, high = 0;
    TokenId numbers[kMostNumbers] = {};
  };
  struct alignas(64) Line {
    Entry entries[2];
  };

  HugeArray<Line> lines_;
  PieceCache long_;
};

}  // namespace pyllm::tokenizers
