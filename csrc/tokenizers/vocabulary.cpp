#include "vocabulary.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "hash.h"

namespace pyllm::tokenizers {
namespace {

constexpr size_t kAhead = 32;

}  // namespace

void TokenBytesBuilder::close(bool present) {
  if (bytes_.size() >= TokenBytes::kPresent)
    throw std::length_error("tokens: all together have 2 GiB or more");
  const auto length = static_cast<uint32_t>(bytes_.size() - begin_);
  entries_.push_back({static_cast<uint32_t>(begin_), present ? length | TokenBytes::kPresent : length});
  begin_ = bytes_.size();
}

TokenBytes TokenBytesBuilder::finish() {
  bytes_.append(TokenBytes::kSlack, '\0');
  TokenBytes tokens;
  tokens.bytes_ = FrozenArray<char>(std::move(bytes_));
  tokens.entries_ = FrozenArray<TokenBytes::Entry>(std::move(entries_));
  return tokens;
}

TokenBytes::TokenBytes(const std::vector<std::string_view>& tokens, const std::vector<bool>& present) {
  size_t bytes = 0;
  for (const std::string_view token : tokens) bytes += token.size();
  TokenBytesBuilder builder;
  builder.reserve(tokens.size(), bytes);
  for (size_t id = 0; id < tokens.size(); ++id) {
    builder.bytes().append(tokens[id]);
    builder.close(present[id]);
  }
  *this = builder.finish();
}

void TokenBytes::store(SectionWriter& file, const std::string& name) const {
  file.array(name + ".bytes", bytes_);
  file.array(name + ".entries", entries_);
}

TokenBytes TokenBytes::load(const SectionReader& file, const std::string& name) {
  TokenBytes tokens;
  tokens.bytes_ = file.array<char>(name + ".bytes");
  tokens.entries_ = file.array<Entry>(name + ".entries");
  if (tokens.bytes_.size() < kSlack || tokens.size() > kMostIds) file.fail(name, "expected bytes of tokens");
  uint64_t end = 0;
  for (const Entry& entry : tokens.entries_) {
    end = std::max(end, uint64_t{entry.offset} + (entry.length & ~kPresent));
  }
  if (end > tokens.bytes_.size() - kSlack) file.fail(name, "a token lies outside of its bytes");
  return tokens;
}

void TokenTable::load(const SectionReader& file, const std::string& name) {
  slots_ = file.array<Slot>(name);
  if (!std::has_single_bit(slots_.size())) file.fail(name, "expected a power of two of slots");
  size_t free = 0, strange = 0;
  for (const Slot& slot : slots_) {
    free += slot.id == kNoToken;
    strange += slot.id != kNoToken && slot.id >= tokens_->size();
  }
  if (free == 0 || strange != 0) file.fail(name, "a slot without token, or none that is free");
  for (TokenId id = 0; id < tokens_->size(); ++id) longest_ = std::max(longest_, (*tokens_)[id].size());
}

// A few ids at a time: all their slots are asked for before the first is looked at.
size_t TokenTable::fill(const std::vector<TokenId>& ids) {
  HugeArray<Slot> slots(table_capacity(ids.size()));
  const size_t mask = slots.size() - 1;
  size_t left_out = 0;
  uint64_t hashes[kAhead];
  longest_ = 0;
  for (size_t begin = 0; begin < ids.size(); begin += kAhead) {
    const size_t count = std::min(kAhead, ids.size() - begin);
    for (size_t i = 0; i < count; ++i) {
      hashes[i] = hash_bytes((*tokens_)[ids[begin + i]]);
      __builtin_prefetch(&slots[hashes[i] & mask], 1);
    }
    for (size_t i = 0; i < count; ++i) {
      const TokenId id = ids[begin + i];
      const std::string_view bytes = (*tokens_)[id];
      const auto tag = static_cast<uint32_t>(hashes[i] >> 32);
      longest_ = std::max(longest_, bytes.size());
      size_t at = hashes[i] & mask;
      const auto differs = [&](const Slot& slot) { return slot.tag != tag || (*tokens_)[slot.id] != bytes; };
      while (slots[at].id != kNoToken && differs(slots[at])) at = (at + 1) & mask;
      left_out += slots[at].id != kNoToken;
      if (slots[at].id == kNoToken) slots[at] = {tag, id};
    }
  }
  slots_ = FrozenArray<Slot>(std::move(slots));
  return left_out;
}

void TokenTable::find_all(std::span<const std::string_view> texts, std::span<TokenId> ids) const {
  const size_t mask = slots_.size() - 1;
  uint64_t hashes[kAhead];
  for (size_t begin = 0; begin < texts.size(); begin += kAhead) {
    const size_t count = std::min(kAhead, texts.size() - begin);
    for (size_t i = 0; i < count; ++i) {
      hashes[i] = hash_bytes(texts[begin + i]);
      __builtin_prefetch(slots_.data() + (hashes[i] & mask));
    }
    // Mostly the first slot holds the token that is looked for.
    for (size_t i = 0; i < count; ++i) {
      const TokenId id = slots_[hashes[i] & mask].id;
      if (id != kNoToken) tokens_->prefetch_entry(id);
    }
    for (size_t i = 0; i < count; ++i) {
      const TokenId id = slots_[hashes[i] & mask].id;
      if (id != kNoToken) __builtin_prefetch((*tokens_)[id].data());
    }
    for (size_t i = 0; i < count; ++i) ids[begin + i] = find(texts[begin + i], hashes[i]);
  }
}

TokenId TokenTable::find(std::string_view bytes, uint64_t hash) const {
  if (bytes.size() > longest_ || slots_.empty()) return kNoToken;
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t slot = hash & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
    const Slot& entry = slots_[slot];
    if (entry.id == kNoToken) return kNoToken;
    if (entry.tag == tag && (*tokens_)[entry.id] == bytes) return entry.id;
  }
}

TokenId TokenTable::find(std::string_view bytes) const {
  return bytes.size() > longest_ ? kNoToken : find(bytes, hash_bytes(bytes));
}

}  // namespace pyllm::tokenizers
