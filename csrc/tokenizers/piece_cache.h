// Remembers the tokens of short pieces that are not tokens themselves. Direct mapped and of fixed size: a new
// piece takes the slot of an old one, so memory is bounded and a crafted text can only make it useless, never
// slow.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "vocabulary.h"

namespace pyllm::tokenizers {

class PieceCache {
 public:
  // Appends the tokens of the piece; false if it is not here.
  bool append(std::string_view piece, uint64_t hash, std::vector<TokenId>& out) const {
    if (entries_.empty() || piece.size() > kLongestPiece) return false;
    const Entry& entry = entries_[hash % kEntries];
    if (entry.length != piece.size() || std::memcmp(entry.piece, piece.data(), piece.size()) != 0)
      return false;
    out.insert(out.end(), entry.tokens, entry.tokens + entry.count);
    return true;
  }

  void store(std::string_view piece, uint64_t hash, std::span<const TokenId> tokens) {
    if (piece.size() > kLongestPiece || tokens.size() > kMostTokens) return;
    if (entries_.empty()) entries_.resize(kEntries);
    Entry& entry = entries_[hash % kEntries];
    entry.length = static_cast<uint8_t>(piece.size());
    entry.count = static_cast<uint8_t>(tokens.size());
    std::memcpy(entry.piece, piece.data(), piece.size());
    std::memcpy(entry.tokens, tokens.data(), tokens.size() * sizeof(TokenId));
  }

 private:
  static constexpr size_t kEntries = 4096;
  static constexpr size_t kLongestPiece = 30, kMostTokens = 8;

  // One cache line. No piece is empty, so length 0 marks a free entry.
  struct Entry {
    uint8_t length = 0;
    uint8_t count = 0;
    char piece[kLongestPiece] = {};
    TokenId tokens[kMostTokens] = {};
  };
  static_assert(sizeof(Entry) == 64);

  std::vector<Entry> entries_;
};

}  // namespace pyllm::tokenizers
