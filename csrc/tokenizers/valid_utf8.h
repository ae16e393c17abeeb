// Whether bytes are UTF-8.
#pragma once

#include <cstring>
#include <string_view>

#include "utf8.h"

namespace pyllm::tokenizers {

// Where the first ill-formed sequence starts; the size of the text if there is none.
inline size_t find_invalid_utf8(std::string_view text) {
  constexpr uint64_t kHighBits = 0x8080808080808080u;
  for (size_t at = 0; at < text.size();) {
    uint64_t words[4] = {};
    if (at + sizeof(words) <= text.size()) {
      std::memcpy(words, text.data() + at, sizeof(words));
      if (((words[0] | words[1] | words[2] | words[3]) & kHighBits) == 0) {
        at += sizeof(words);
        continue;
      }
    }
    const Utf8Character character = decode_utf8(text, at);
    if (character.code_point >= kInvalidByte) return at;
    at += character.length;
  }
  return text.size();
}

}  // namespace pyllm::tokenizers
