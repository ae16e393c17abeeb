// Token bytes by id, and ids by token bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "frozen_array.h"
#include "sections.h"

namespace pyllm::tokenizers {

using TokenId = uint32_t;

inline constexpr TokenId kNoToken = UINT32_MAX;
// No vocabulary comes near; bounds what a hostile id can make us allocate.
inline constexpr size_t kMostIds = 1 << 22;

// The bytes of every id. Ids may leave holes (tiktoken's cl100k does). Copies share the memory.
//
//   entries   [offset, length | present] ...     one load finds a token
//   bytes     all tokens one after the other, and kSlack more, so that kSlack bytes can be read at every
//   token
class TokenBytes {
 public:
  TokenBytes() = default;
  // Ids are positions in `tokens`; an absent id has present[id] == false.
  TokenBytes(const std::vector<std::string_view>& tokens, const std::vector<bool>& present);

  static constexpr size_t kSlack = 16;

  size_t size() const { return entries_.size(); }
  size_t total_bytes() const { return bytes_.size(); }
  bool contains(TokenId id) const { return id < size() && (entries_[id].length & kPresent) != 0; }
  void prefetch_entry(TokenId id) const { __builtin_prefetch(entries_.data() + id); }
  size_t length(TokenId id) const { return entries_[id].length & ~kPresent; }
  std::string_view operator[](TokenId id) const {
    const Entry entry = entries_[id];
    return {bytes_.data() + entry.offset, entry.length & ~kPresent};
  }

  void store(SectionWriter& file, const std::string& name) const;
  // Throws std::invalid_argument where a token would lie outside of the bytes.
  static TokenBytes load(const SectionReader& file, const std::string& name);
  bool shares_memory(const TokenBytes& other) const { return entries_.data() == other.entries_.data(); }

 private:
  friend class TokenBytesBuilder;

  static constexpr uint32_t kPresent = uint32_t{1} << 31;
  struct Entry {
    uint32_t offset, length;  // the length has kPresent if there is a token
  };

  FrozenArray<char> bytes_;
  FrozenArray<Entry> entries_;
};

// Token after token, by ascending id.
class TokenBytesBuilder {
 public:
  void reserve(size_t tokens, size_t bytes) {
    bytes_.reserve(bytes + TokenBytes::kSlack);
    entries_.reserve(tokens);
  }
  void add(std::string_view bytes) {
    bytes_.append(bytes);
    close(true);
  }
  void add_absent() { close(false); }

  // A token is what was appended to bytes() since the one before.
  std::string& bytes() { return bytes_; }
  // Throws std::length_error where all tokens together have 2 GiB or more.
  void close(bool present);

  TokenBytes finish();

 private:
  std::string bytes_;
  std::vector<TokenBytes::Entry> entries_;
  size_t begin_ = 0;  // of the next token
};

// The whole-piece table: flat open addressing from bytes to id.
class TokenTable {
 public:
  explicit TokenTable(const TokenBytes& tokens) : tokens_(&tokens) {}

  void store(SectionWriter& file, const std::string& name) const { file.array(name, slots_); }
  // Throws std::invalid_argument for a table that a search could leave or not end in.
  void load(const SectionReader& file, const std::string& name);

  // Takes the ids in; of tokens with equal bytes the first one stays. How many were left out.
  size_t fill(const std::vector<TokenId>& ids);

  // kNoToken if no token has these bytes.
  TokenId find(std::string_view bytes, uint64_t hash) const;
  TokenId find(std::string_view bytes) const;
  // Many at once: while one waits for memory, the next ones ask for theirs.
  void find_all(std::span<const std::string_view> texts, std::span<TokenId> ids) const;

 private:
  struct Slot {
    uint32_t tag = 0;
    TokenId id = kNoToken;
  };

  const TokenBytes* tokens_;
  FrozenArray<Slot> slots_;
  size_t longest_ = 0;
};

}  // namespace pyllm::tokenizers
