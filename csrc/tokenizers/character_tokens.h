// The tokens of single characters: those of the basic plane by code point, so that most characters of a text
// cost one load.
//
//   by code point   ... 世 -> 29900   丗 -> none   丘 -> 31103 ...     others by their bytes, in the table
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "utf8.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class CharacterTokens {
 public:
  CharacterTokens() = default;

  // `table` finds the tokens that a text may give.
  CharacterTokens(const TokenBytes& tokens, const TokenTable& table) : tokens_(kBasicPlane, kNoToken) {
    for (TokenId id = 0; id < tokens.size(); ++id) {
      if (!tokens.contains(id) || tokens.length(id) - 1 >= 3) continue;
      const Utf8Character character = decode_utf8(tokens[id], 0);
      const bool alone = character.length == tokens.length(id) && character.code_point < kBasicPlane;
      if (alone) tokens_[character.code_point] = table.find(tokens[id]);
    }
  }

  // kNoToken if there is none. `bytes` are those of the character.
  TokenId find(uint32_t code_point, std::string_view bytes, const TokenTable& table) const {
    return code_point < kBasicPlane ? tokens_[code_point] : table.find(bytes);
  }

 private:
  static constexpr uint32_t kBasicPlane = 1 << 16;

  std::vector<TokenId> tokens_;
};

}  // namespace pyllm::tokenizers
