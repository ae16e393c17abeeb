#include "token_trie.h"

#include <algorithm>
#include <stdexcept>

namespace pyllm::tokenizers {
namespace {

uint32_t byte_at(std::string_view text, size_t at) { return static_cast<unsigned char>(text[at]); }

bool leads_three(uint32_t byte) { return (byte & 0xF0) == 0xE0; }

// Whether lead byte and two continuation bytes stand at `at`, whatever code point they would give.
bool three_bytes_at(std::string_view text, size_t at) {
  return at + 3 <= text.size() && leads_three(byte_at(text, at)) && (byte_at(text, at + 1) & 0xC0) == 0x80 &&
         (byte_at(text, at + 2) & 0xC0) == 0x80;
}

uint32_t character_label(std::string_view text, size_t at) {
  return (byte_at(text, at) & 0x0F) << 12 | (byte_at(text, at + 1) & 0x3F) << 6 |
         (byte_at(text, at + 2) & 0x3F);
}

}  // namespace

void TokenTrie::Edges::rehash(size_t size) {
  HugeArray<uint64_t> old(size);
  std::swap(old, slots_);
  shift_ = 64 - static_cast<unsigned>(std::bit_width(size - 1));
  for (size_t i = 0; i < size; ++i) slots_[i] = kFree;
  for (size_t i = 0; i < old.size(); ++i) {
    if (old[i] != kFree) slots_[locate(old[i] >> 24)] = old[i];
  }
}

void TokenTrie::Edges::add(uint32_t node, uint32_t label, uint32_t child) {
  if (used_ * 2 >= slots_.size()) rehash(slots_.size() * 2);
  uint64_t& slot = slots_[locate(key_of(node, label))];
  used_ += slot == kFree;
  slot = key_of(node, label) << 24 | child;
}

TokenTrie::TokenTrie(const TokenBytes& tokens, const std::vector<TokenId>& ids)
    : first_inner_(static_cast<uint32_t>(tokens.size())), nodes_(first_inner_), shorter_(tokens.size()) {
  // Short tokens first: a node is made as the token that ends there if there is one.
  std::vector<TokenId> by_length = ids;
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](TokenId a, TokenId b) { return tokens[a].size() < tokens[b].size(); });
  for (const TokenId id : by_length) insert(tokens[id], id);
  has_partial_.resize(nodes_);
  for (const TokenId id : ids) {
    if (std::any_of(tokens[id].begin(), tokens[id].end(), [](char c) { return leads_three(c & 0xFFu); })) {
      insert_characters(tokens[id]);
    }
  }
  fill_starts();
}

void TokenTrie::fill_starts() {
  for (uint32_t label = 0; label < pairs_start_.size(); ++label) {
    const char pair[] = {static_cast<char>(label >> 8), static_cast<char>(label)};
    Start& start = pairs_start_[label];
    start.node = walk_bytes({pair, 2}, 0, 2, kRoot, start.best);
  }
  for (uint32_t label = 0; label < characters_start_.size(); ++label) {
    const char character[] = {static_cast<char>(0xE0 | label >> 12),
                              static_cast<char>(0x80 | (label >> 6 & 0x3F)),
                              static_cast<char>(0x80 | (label & 0x3F))};
    Start& start = characters_start_[label];
    start.node = walk_bytes({character, 3}, 0, 3, kRoot, start.best);
  }
}

void TokenTrie::insert(std::string_view bytes, TokenId id) {
  uint32_t node = kRoot;
  TokenId best = kNoToken;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (node != kRoot) pass(node, best);
    uint32_t child = bytes_.find(node, byte_at(bytes, i));
    if (child == kNone) {
      child = i + 1 == bytes.size() ? id : nodes_++;
      if (nodes_ >= kNone) throw std::length_error("tokens: too many for a trie");
      bytes_.add(node, byte_at(bytes, i), child);
    }
    node = child;
  }
  shorter_[id] = best;
}

void TokenTrie::insert_characters(std::string_view bytes) {
  uint32_t node = kRoot;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (three_bytes_at(bytes, i)) {
      TokenId ignored = kNoToken;
      const uint32_t child = walk_bytes(bytes, i, i + 3, node, ignored);
      if (node != kRoot) characters_.add(node, character_label(bytes, i), child);
    } else if (leads_three(byte_at(bytes, i)) && node != kRoot) {
      has_partial_[node] = true;
    }
    node = bytes_.find(node, byte_at(bytes, i));
  }
}

uint32_t TokenTrie::walk_bytes(std::string_view text, size_t at, size_t end, uint32_t node,
                               TokenId& best) const {
  for (; at < end && node != kNone; ++at) {
    node = bytes_.find(node, byte_at(text, at));
    pass(node, best);
  }
  return node;
}

TokenId TokenTrie::longest_at(std::string_view text, size_t at) const {
  Start start{kRoot, kNoToken};
  if (three_bytes_at(text, at)) {
    start = characters_start_[character_label(text, at)];
    at += 3;
  } else if (at + 2 <= text.size() && !leads_three(byte_at(text, at + 1))) {
    start = pairs_start_[byte_at(text, at) << 8 | byte_at(text, at + 1)];
    at += 2;
  }
  TokenId best = start.best;
  for (uint32_t node = start.node; node != kNone && at < text.size();) {
    if (!three_bytes_at(text, at)) {
      node = bytes_.find(node, byte_at(text, at++));
      pass(node, best);
      continue;
    }
    const uint32_t child = characters_.find(node, character_label(text, at));
    if (child >= first_inner_ && has_partial_[node]) walk_bytes(text, at, at + 2, node, best);
    pass(child, best);
    node = child;
    at += 3;
  }
  return best;
}

}  // namespace pyllm::tokenizers
