// Which of several pairs that are equally frequent is merged first, and which ids that rule compares.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

#include "vocabulary.h"

namespace pyllm::tokenizers {

enum class TieBreak {
  hf,     // the smallest (left id, right id); bytes in the order of the byte-level alphabet ("!" first), a
          // merge that spells a token that is there takes its id: the tokenizers package's BpeTrainer
  bytes,  // the same, but bytes are ids 0 to 255 and every merge makes a new id: rustbpe
  first_seen,  // the pair that stands first in the text; ids as in `bytes`: minbpe
};

inline TieBreak find_tie_break(std::string_view name) {
  if (name == "hf") return TieBreak::hf;
  if (name == "bytes") return TieBreak::bytes;
  if (name == "first_seen") return TieBreak::first_seen;
  throw std::invalid_argument("tie_break: expected 'hf', 'bytes' or 'first_seen', got '" + std::string(name) +
                              "'");
}

// The id of each byte.
inline std::array<TokenId, 256> byte_ids(TieBreak rule) {
  std::array<TokenId, 256> ids{};
  TokenId next = 0;
  // The alphabet gives printable Latin-1 its own characters, which come before those of the other bytes.
  const auto printable = [](int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  };
  for (const bool wanted : {true, false}) {
    for (int byte = 0; byte < 256; ++byte) {
      if (printable(byte) == wanted) ids[byte] = rule == TieBreak::hf ? next++ : static_cast<TokenId>(byte);
    }
  }
  return ids;
}

}  // namespace pyllm::tokenizers
