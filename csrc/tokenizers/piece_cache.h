// Remembers the tokens of pieces of any moderate length.
//
//   hash -> line of five entries {tag, offset, length, count} -> arena: the piece's bytes, then its tokens
//
// A new piece takes the place of the oldest of its line; when the arena is full everything is forgotten at
// once. So memory is bounded and a crafted text can only make it useless, never slow.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "huge_array.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class PieceCache {
 public:
  void prefetch(uint64_t hash) const {
    if (!lines_.empty()) __builtin_prefetch(&lines_[hash % kLines]);
  }

  // Writes the tokens of the piece; their end, or nullptr if it is not here.
  TokenId* copy(std::string_view piece, uint64_t hash, TokenId* out) const {
    const Entry* entry = find(piece, hash);
    return entry == nullptr ? nullptr : copy_tokens(*entry, out);
  }

  // Appends the tokens of the piece; false if it is not here.
  bool append(std::string_view piece, uint64_t hash, std::vector<TokenId>& out) const {
    const Entry* entry = find(piece, hash);
    if (entry == nullptr) return false;
    const size_t before = out.size();
    out.resize(before + entry->count);
    if (entry->count > 0) copy_tokens(*entry, &out[before]);
    return true;
  }

  void store(std::string_view piece, uint64_t hash, std::span<const TokenId> tokens) {
    if (piece.size() > kLongestPiece) return;
    const size_t bytes = piece.size() + tokens.size_bytes();
    if (lines_.empty() || used_ + bytes > kArenaBytes) forget();
    Line& line = lines_[hash % kLines];
    std::copy_backward(line.entries, line.entries + kEntries - 1, line.entries + kEntries);
    line.entries[0] = {tag_of(hash), used_, static_cast<uint16_t>(piece.size()),
                       static_cast<uint16_t>(tokens.size())};
    std::memcpy(&arena_[used_], piece.data(), piece.size());
    if (!tokens.empty()) std::memcpy(&arena_[used_ + piece.size()], tokens.data(), tokens.size_bytes());
    used_ += static_cast<uint32_t>(bytes);
  }

  static constexpr size_t kLongestPiece = 1024;

 private:
  static constexpr size_t kLines = 1 << 15, kEntries = 5, kArenaBytes = 8 << 20;

  struct Entry {
    uint32_t tag = 0;
    uint32_t offset = 0;
    uint16_t length = 0;  // no piece is empty, so 0 marks a free entry
    uint16_t count = 0;
  };
  struct alignas(64) Line {
    Entry entries[kEntries];
  };

  const Entry* find(std::string_view piece, uint64_t hash) const {
    if (lines_.empty()) return nullptr;
    for (const Entry& entry : lines_[hash % kLines].entries) {
      if (entry.tag != tag_of(hash) || entry.length != piece.size()) continue;
      if (std::memcmp(&arena_[entry.offset], piece.data(), piece.size()) == 0) return &entry;
    }
    return nullptr;
  }

  TokenId* copy_tokens(const Entry& entry, TokenId* out) const {
    std::memcpy(out, &arena_[entry.offset + entry.length], entry.count * sizeof(TokenId));
    return out + entry.count;
  }

  static uint32_t tag_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

  void forget() {
    lines_ = HugeArray<Line>(kLines);
    if (arena_.empty()) arena_ = HugeArray<char>::uninitialized(kArenaBytes);
    used_ = 0;
  }

  HugeArray<Line> lines_;
  HugeArray<char> arena_;
  uint32_t used_ = 0;  // bytes of the arena
};

}  // namespace pyllm::tokenizers
