// A vocabulary as a file writes it: spellings with ids, and merges that name their parts by spelling.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vocabulary.h"

namespace pyllm::tokenizers {

class Spellings {
 public:
  // ids: of each entry, below kMostIds; empty: the position.
  Spellings(TokenBytes entries, std::vector<TokenId> ids);
  Spellings(const Spellings&) = delete;
  Spellings& operator=(const Spellings&) = delete;

  size_t size() const { return entries_.size(); }
  std::string_view operator[](size_t entry) const { return entries_[static_cast<TokenId>(entry)]; }
  TokenId id(size_t entry) const { return ids_.empty() ? static_cast<TokenId>(entry) : ids_[entry]; }
  // Whether a spelling occurs twice.
  bool has_doubles() const { return doubles_ > 0; }

  // The entry of a spelling, of several the last one; kNoToken if there is none.
  TokenId find(std::string_view spelling) const { return table_.find(spelling); }
  void find_all(std::span<const std::string_view> spellings, std::span<TokenId> entries) const {
    table_.find_all(spellings, entries);
  }

  // The tokens by id. Those of byte-level models are spelled in GPT-2's alphabet; what it cannot spell, and
  // added tokens (id, content), are taken verbatim. Of a spelling that occurs twice with ids of its own, only
  // the last one counts. Throws std::invalid_argument where an id stands for two tokens.
  TokenBytes tokens(bool byte_level, const std::vector<std::pair<TokenId, std::string>>& added) const;

 private:
  std::vector<TokenId> entries_by_id() const;

  TokenBytes entries_;
  std::vector<TokenId> ids_;
  TokenTable table_;
  size_t doubles_;
};

// Merges in the order of their ranks become rows of the ids of left, right and merged.
//
//   waiting   low er|new est|...      each merge as it is joined; where it is cut stands beside it
//
// Merges are looked up some at a time, because each lookup waits for memory.
class MergeReader {
 public:
  // what: how the list is called in errors.
  MergeReader(const Spellings& spellings, std::string what) : spellings_(spellings), what_(std::move(what)) {}

  // Throws std::invalid_argument, at the latest in take(), if the two do not join to a third.
  void add(std::string_view left, std::string_view right);
  // "left right"; throws if there is not exactly one space.
  void add(std::string_view both);

  // Throws std::invalid_argument for the next merge; `found` is what there is instead.
  [[noreturn]] void refuse(const std::string& found) const;

  std::vector<TokenId> take();

 private:
  static constexpr size_t kWaiting = 64;
  struct Waiting {
    size_t begin, cut, end;  // in text_
  };

  void look_up();
  TokenId find_joined(std::string_view merged);

  const Spellings& spellings_;
  std::string what_, text_;
  std::vector<Waiting> waiting_;
  std::vector<std::string_view> parts_;
  std::vector<TokenId> found_, rows_;
  TokenId last_ = 0;  // the entry of the last merged token
};

}  // namespace pyllm::tokenizers
