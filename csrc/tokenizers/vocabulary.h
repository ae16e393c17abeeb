// Token bytes by id, and ids by token bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pyllm::tokenizers {

using TokenId = uint32_t;

inline constexpr TokenId kNoToken = UINT32_MAX;

// The bytes of every id. Ids may leave holes (tiktoken's cl100k does).
class TokenBytes {
 public:
  // Ids are positions in `tokens`; an absent id has present[id] == false.
  TokenBytes(const std::vector<std::string_view>& tokens, const std::vector<bool>& present);

  size_t size() const { return present_.size(); }
  bool contains(TokenId id) const { return id < size() && present_[id]; }
  std::string_view operator[](TokenId id) const {
    return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }

 private:
  std::string bytes_;
  std::vector<size_t> offsets_;
  std::vector<bool> present_;
};

// The whole-piece table: flat open addressing from bytes to id.
class TokenTable {
 public:
  explicit TokenTable(const TokenBytes& tokens) : tokens_(&tokens) {}

  // Takes the ids in; of tokens with equal bytes the first one stays.
  void fill(const std::vector<TokenId>& ids);

  // kNoToken if no token has these bytes.
  TokenId find(std::string_view bytes, uint64_t hash) const;
  TokenId find(std::string_view bytes) const;

 private:
  struct Slot {
    uint32_t tag = 0;
    TokenId id = kNoToken;
  };

  const TokenBytes* tokens_;
  std::vector<Slot> slots_;
  size_t longest_ = 0;
};

}  // namespace pyllm::tokenizers
