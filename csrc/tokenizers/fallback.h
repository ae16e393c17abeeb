// Characters that a vocabulary does not know: their bytes, one token each (<0x00> ... <0xFF>), or the unknown
// token.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "vocabulary.h"

namespace pyllm::tokenizers {

struct Fallback {
  TokenId unknown = kNoToken;  // kNoToken: unknown characters are left out
  bool fuse_unknown = true;    // neighbours share one unknown token
  bool has_bytes = false;
  std::array<TokenId, 256> bytes = {};
};

// The ids and lengths of a piece as they are found, left to right.
class FallbackWriter {
 public:
  FallbackWriter(const Fallback& fallback, std::vector<TokenId>& ids, std::vector<size_t>* lengths)
      : fallback_(fallback), ids_(ids), lengths_(lengths) {}

  void known(TokenId id, size_t length) {
    put(id, length);
    after_unknown_ = false;
  }

  void unknown(std::string_view character) {
    if (fallback_.has_bytes) {
      for (const char c : character) known(fallback_.bytes[static_cast<unsigned char>(c)], 1);
    } else if (fallback_.unknown == kNoToken) {
      // Left out: its bytes belong to the token before.
      if (lengths_ != nullptr && !lengths_->empty()) lengths_->back() += character.size();
    } else if (after_unknown_ && fallback_.fuse_unknown) {
      if (lengths_ != nullptr) lengths_->back() += character.size();
    } else {
      put(fallback_.unknown, character.size());
      after_unknown_ = true;
    }
  }

 private:
  void put(TokenId id, size_t length) {
    ids_.push_back(id);
    if (lengths_ != nullptr) lengths_->push_back(length);
  }

  const Fallback& fallback_;
  std::vector<TokenId>& ids_;
  std::vector<size_t>* lengths_;
  bool after_unknown_ = false;
};

}  // namespace pyllm::tokenizers
