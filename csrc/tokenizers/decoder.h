// From ids to bytes: every id has its bytes ready, so they are only joined.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "added_tokens.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

// What ids are decoded to.
struct DecodingTables {
  TokenBytes tokens;
  TokenBytes first;  // of the first token of a text; empty if that makes no difference
};

// As Decoder::store wrote them. Throws std::invalid_argument.
DecodingTables load_decoding(const SectionReader& file);

// Bytes that grow at their end, never set to zero first.
class DecodedBytes {
 public:
  std::string_view view() const { return {bytes_.get(), size_}; }
  size_t size() const { return size_; }

  // The end, where `more` bytes can be written.
  char* room(size_t more) {
    if (capacity_ - size_ < more) grow(more);
    return bytes_.get() + size_;
  }
  void advance(size_t written) { size_ += written; }
  void append(std::string_view bytes) {
    std::memcpy(room(bytes.size()), bytes.data(), bytes.size());
    advance(bytes.size());
  }
  // Keeps the last `kept` bytes.
  void drop_all_but(size_t kept) {
    std::memmove(bytes_.get(), bytes_.get() + size_ - kept, kept);
    size_ = kept;
  }

 private:
  void grow(size_t more) {
    const size_t capacity = std::max(capacity_ * 2, size_ + more + 64);
    auto larger = std::make_unique_for_overwrite<char[]>(capacity);
    if (size_ != 0) std::memcpy(larger.get(), bytes_.get(), size_);
    bytes_ = std::move(larger);
    capacity_ = capacity;
  }

  std::unique_ptr<char[]> bytes_;
  size_t size_ = 0, capacity_ = 0;
};

class Decoder {
 public:
  // Throws std::invalid_argument if the tables differ in size or an added token has no id in them.
  Decoder(DecodingTables tables, const std::vector<AddedToken>& added);

  void store(SectionWriter& file) const;

  size_t size() const { return tables_.tokens.size(); }
  bool is_special(int64_t id) const {
    return std::cmp_greater_equal(id, 0) && std::cmp_less(id, size()) && special_[static_cast<size_t>(id)];
  }

  // The bytes of an id; first: it starts a text. Throws std::invalid_argument for an id without token.
  std::string_view bytes_of(int64_t id, bool first) const {
    return (first ? tables_.first : tables_.tokens)[checked(id, 0)];
  }

  // Appends the bytes of the ids. first: they start a text. skip_special: as if special tokens were not
  // there. Throws std::invalid_argument for an id without token.
  template <typename Id>
  void decode(std::span<const Id> ids, bool first, bool skip_special, DecodedBytes& out) const {
    constexpr size_t kUsualBytes = 6;
    out.room(ids.size() * kUsualBytes);
    size_t i = 0;
    for (; first && i < ids.size(); ++i) {
      const TokenId id = checked(ids[i], i);
      if (skip_special && special_[id]) continue;
      append(tables_.first[id], out);
      first = false;
    }
    for (; i < ids.size(); ++i) {
      const TokenId id = checked(ids[i], i);
      if (skip_special && special_[id]) continue;
      append(tables_.tokens[id], out);
    }
  }

 private:
  [[noreturn]] void no_token(int64_t id, size_t index) const;

  template <typename Id>
  TokenId checked(Id id, size_t index) const {
    if (std::cmp_less(id, 0) || std::cmp_greater_equal(id, size()) ||
        !tables_.tokens.contains(static_cast<TokenId>(id))) {
      no_token(static_cast<int64_t>(id), index);
    }
    return static_cast<TokenId>(id);
  }

  // Most tokens are short: one copy of fixed size, of which what is too much is written over.
  static void append(std::string_view token, DecodedBytes& out) {
    char* end = out.room(token.size() + TokenBytes::kSlack);
    std::memcpy(end, token.data(), TokenBytes::kSlack);
    if (token.size() > TokenBytes::kSlack) std::memcpy(end, token.data(), token.size());
    out.advance(token.size());
  }

  DecodingTables tables_;
  std::vector<bool> special_;  // by id
};

}  // namespace pyllm::tokenizers
