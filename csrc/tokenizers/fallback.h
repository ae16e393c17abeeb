// Text that a vocabulary does not know: its bytes, one token each (<0x00> ... <0xFF>), or the unknown token
// where there is none for one of the bytes.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "vocabulary.h"

namespace pyllm::tokenizers {

struct Fallback {
  TokenId unknown = kNoToken;  // kNoToken: unknown characters are left out
  bool fuse_unknown = true;    // neighbours share one unknown token
  bool has_bytes = false;
  std::array<TokenId, 256> bytes = {};  // kNoToken where there is none

  bool spells_all() const {
    return has_bytes && std::find(bytes.begin(), bytes.end(), kNoToken) == bytes.end();
  }
  bool spells(std::string_view text) const {
    return has_bytes && std::all_of(text.begin(), text.end(), [this](char c) {
             return bytes[static_cast<unsigned char>(c)] != kNoToken;
           });
  }
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

  void unknown(std::string_view text) {
    if (fallback_.spells(text)) {
      for (const char c : text) put_byte(fallback_.bytes[static_cast<unsigned char>(c)]);
    } else if (fallback_.unknown == kNoToken) {
      // Left out: its bytes belong to the token before.
      if (lengths_ != nullptr && !lengths_->empty()) lengths_->back() += text.size();
    } else if (after_unknown_ && fallback_.fuse_unknown) {
      if (lengths_ != nullptr) lengths_->back() += text.size();
    } else {
      put(fallback_.unknown, text.size());
      after_unknown_ = true;
    }
  }

 private:
  // Bytes overtake an unknown token that waits for what it may be one with, as in tokenizers.
  void put_byte(TokenId id) {
    ids_.insert(ids_.end() - after_unknown_, id);
    if (lengths_ != nullptr) lengths_->insert(lengths_->end() - after_unknown_, 1);
  }

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
