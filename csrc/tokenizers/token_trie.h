// The tokens as a trie, for the longest one that a text starts with.
//
//   bytes   pairs[h, e] - l - l - o      one edge a byte, found by hash of (node, byte); the first two by
//   index 中文     start[中] - 文 - 字          characters of three bytes are one step: the first by index,
//   the
//                                        others by hash
//
// A node that is a token has the token's id as its number, other nodes follow, so that reaching a node tells
// the token.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "huge_array.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class TokenTrie {
 public:
  // Throws std::length_error if there are more than 2^23 nodes.
  TokenTrie(const TokenBytes& tokens, const std::vector<TokenId>& ids);

  // The longest token that text[at] starts with, kNoToken if there is none.
  TokenId longest_at(std::string_view text, size_t at) const;

  // The longest token that the token begins with, but for itself; kNoToken if there is none.
  TokenId shorter(TokenId id) const { return shorter_[id]; }

 private:
  static constexpr uint32_t kRoot = (1 << 23) - 1, kNone = kRoot - 1;

  // (node, label of 16 bits) -> node, in slots of one word: node << 40 | label << 24 | child.
  class Edges {
   public:
    Edges() { rehash(1 << 10); }

    uint32_t find(uint32_t node, uint32_t label) const {
      return slots_[locate(key_of(node, label))] & 0xFFFFFF;
    }
    void add(uint32_t node, uint32_t label, uint32_t child);

   private:
    // Not the key of an edge; its child is kNone.
    static constexpr uint64_t kFree = ~uint64_t{0} << 24 | kNone;

    static uint64_t key_of(uint32_t node, uint32_t label) { return uint64_t{node} << 16 | label; }
    size_t locate(uint64_t key) const {
      for (size_t at = (key * 0x9E3779B97F4A7C15u) >> shift_;; at = (at + 1) & (slots_.size() - 1)) {
        if (slots_[at] >> 24 == key || slots_[at] == kFree) return at;
      }
    }
    void rehash(size_t size);

    HugeArray<uint64_t> slots_;
    unsigned shift_ = 0;
    size_t used_ = 0;
  };

  void insert(std::string_view bytes, TokenId id);
  void insert_characters(std::string_view bytes);

  // Where the first bytes of a text lead.
  struct Start {
    uint32_t node = kNone;
    TokenId best = kNoToken;  // the last token passed
  };

  void fill_starts();
  // Goes on from `node`, whose bytes end before `at`, by single bytes until `end`; `best` becomes the last
  // token passed.
  uint32_t walk_bytes(std::string_view text, size_t at, size_t end, uint32_t node, TokenId& best) const;
  void pass(uint32_t node, TokenId& best) const {
    if (node < first_inner_) best = node;
  }

  uint32_t first_inner_, nodes_;
  HugeArray<TokenId> shorter_;
  Edges bytes_, characters_;
  HugeArray<Start> characters_start_{1 << 16};  // by the 16 bits of a three-byte character
  HugeArray<Start> pairs_start_{1 << 16};       // by two bytes
  // By node: some token ends inside of a three-byte character that begins there.
  std::vector<bool> has_partial_;
};

}  // namespace pyllm::tokenizers
