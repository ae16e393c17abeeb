// What words have become, by their bytes before anything was done to them: short ones by key, longer ones by
// hash.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hash.h"
#include "piece_cache.h"
#include "piece_key.h"
#include "short_piece_cache.h"
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
    if (word.key.none()) return long_.append(word.bytes, word.hash, out);
    const size_t before = out.size();
    out.resize(before + ShortPieceCache::kMostTokens);
    const TokenId* end = short_.append(word.key, word.hash, &out[before]);
    out.resize(end == nullptr ? before : static_cast<size_t>(end - out.data()));
    return end != nullptr || long_.append(word.bytes, word.hash, out);
  }

  void store(const Word& word, std::span<const TokenId> numbers) {
    if (word.key.none() || numbers.size() > ShortPieceCache::kMostTokens) {
      long_.store(word.bytes, word.hash, numbers);
    } else {
      short_.store(word.key, word.hash, numbers);
    }
  }

 private:
  ShortPieceCache short_;
  PieceCache long_;
};

}  // namespace pyllm::tokenizers
