#include "vocabulary.h"

#include <algorithm>

#include "hash.h"

namespace pyllm::tokenizers {

TokenBytes::TokenBytes(const std::vector<std::string_view>& tokens, const std::vector<bool>& present)
    : present_(present) {
  offsets_.reserve(tokens.size() + 1);
  offsets_.push_back(0);
  for (const std::string_view token : tokens) {
    bytes_.append(token);
    offsets_.push_back(bytes_.size());
  }
}

void TokenTable::fill(const std::vector<TokenId>& ids) {
  slots_.assign(table_capacity(ids.size()), Slot{});
  longest_ = 0;
  for (const TokenId id : ids) {
    const std::string_view bytes = (*tokens_)[id];
    const uint64_t hash = hash_bytes(bytes);
    longest_ = std::max(longest_, bytes.size());
    if (find(bytes, hash) != kNoToken) continue;
    size_t slot = hash & (slots_.size() - 1);
    while (slots_[slot].id != kNoToken) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = {static_cast<uint32_t>(hash >> 32), id};
  }
}

TokenId TokenTable::find(std::string_view bytes, uint64_t hash) const {
  if (bytes.size() > longest_ || slots_.empty()) return kNoToken;
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  for (size_t slot = hash & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
    const Slot& entry = slots_[slot];
    if (entry.id == kNoToken) return kNoToken;
    if (entry.tag == tag && (*tokens_)[entry.id] == bytes) return entry.id;
  }
}

TokenId TokenTable::find(std::string_view bytes) const { return find(bytes, hash_bytes(bytes)); }

}  // namespace pyllm::tokenizers
