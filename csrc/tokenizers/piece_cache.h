// Remembers the tokens of pieces of any moderate length.
//
//   hash -> entry {tag, offset, length, count} -> arena: the piece's bytes, then its tokens
//
// Direct mapped; when the arena is full everything is forgotten at once. So memory is bounded and a crafted
// text can only make it useless, never slow.
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
    if (entries_.empty()) return false;
    const Entry& entry = entries_[hash % kEntries];
    if (entry.tag != tag_of(hash) || entry.length != piece.size()) return false;
    const char* found = arena_.data() + entry.offset;
    if (std::memcmp(found, piece.data(), piece.size()) != 0) return false;
    const size_t before = out.size();
    out.resize(before + entry.count);
    if (entry.count > 0) std::memcpy(&out[before], found + entry.length, entry.count * sizeof(TokenId));
    return true;
  }

  void store(std::string_view piece, uint64_t hash, std::span<const TokenId> tokens) {
    if (piece.size() > kLongestPiece) return;
    const size_t bytes = piece.size() + tokens.size_bytes();
    if (entries_.empty() || arena_.size() + bytes > kArenaBytes) forget();
    entries_[hash % kEntries] = {tag_of(hash), static_cast<uint32_t>(arena_.size()),
                                 static_cast<uint16_t>(piece.size()), static_cast<uint16_t>(tokens.size())};
    arena_.insert(arena_.end(), piece.begin(), piece.end());
    const char* ids = reinterpret_cast<const char*>(tokens.data());
    arena_.insert(arena_.end(), ids, ids + tokens.size_bytes());
  }

 private:
  static constexpr size_t kEntries = 1 << 16, kArenaBytes = 8 << 20;
  static constexpr size_t kLongestPiece = 1024;

  struct Entry {
    uint32_t tag = 0;
    uint32_t offset = 0;
    uint16_t length = 0;  // no piece is empty, so 0 marks a free entry
    uint16_t count = 0;
  };

  static uint32_t tag_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

  void forget() {
    entries_.assign(kEntries, Entry{});
    arena_.clear();
  }

  std::vector<Entry> entries_;
  std::vector<char> arena_;
};

}  // namespace pyllm::tokenizers
