// Added tokens: strings that are found in the text before it is cut into pieces, special or not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aligned_text.h"
#include "double_array_trie.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

// The flags of the tokenizers package.
struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool special = false;
  bool lstrip = false;       // takes the whitespace before it too
  bool rstrip = false;       // and after it
  bool single_word = false;  // only if no \w stands beside it
  bool normalized = false;   // looked for in the normalized text
};

// Which tokens a search may give: by position in the list of added tokens.
using TokenFilter = std::vector<bool>;

struct AddedTokenMatch {
  size_t begin, end;  // with the stripped whitespace
  const AddedToken* token;
};

// A trie over the contents. Of several tokens that start at the leftmost place the longest is found.
class AddedTokenMatcher {
 public:
  // Looks for those tokens of the list for which `include` is true. The list must outlive the matcher.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, const std::vector<bool>& include);

  bool empty() const { return first_bytes_.empty(); }

  // Takes the trie of another matcher for the same tokens, which added_trie() made.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, DoubleArrayTrie trie);

  // Every match, left to right; they overlap in stripped whitespace at most. Tokens of `guarded` that touch a
  // part of the text in `plain` (sorted) do not match; `guarded` may be empty where `plain` is.
  std::vector<AddedTokenMatch> find_all(std::string_view text, const TokenFilter& filter,
                                        const std::vector<Span>& plain, const TokenFilter& guarded) const;

  // The leftmost token of the filter, whatever its flags; nullptr if the text has none.
  const AddedToken* find_first(std::string_view text, const TokenFilter& filter) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  size_t next_start(std::string_view text, size_t at) const;
  uint32_t longest_at(std::string_view text, size_t at, const TokenFilter& filter,
                      const TokenFilter* refused) const;
  std::optional<AddedTokenMatch> extend(std::string_view text, size_t at, const AddedToken& token,
                                        size_t taken) const;

  const std::vector<AddedToken>* tokens_;
  DoubleArrayTrie trie_;
  bool starts_[256] = {};
  std::string first_bytes_;  // the bytes of starts_, each once
};

// The contents of those tokens for which `include` is true; of equal ones the last counts.
DoubleArrayTrie added_trie(const std::vector<AddedToken>& tokens, const std::vector<bool>& include);

// Our own file form: the list, and the trie of all contents. Loading throws std::invalid_argument where they
// do not fit.
void store_added(const std::vector<AddedToken>& tokens, SectionWriter& file);
void store_added_trie(const std::vector<AddedToken>& tokens, SectionWriter& file);
std::vector<AddedToken> load_added(const SectionReader& file);
DoubleArrayTrie load_added_trie(const std::vector<AddedToken>& tokens, const SectionReader& file);

}  // namespace pyllm::tokenizers
