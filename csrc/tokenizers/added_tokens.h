// Added tokens: strings that are found in the text before it is cut into pieces, special or not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "aligned_text.h"
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

  bool empty() const { return nodes_.size() == 1; }

  // Every match, left to right; they overlap in stripped whitespace at most. Tokens of `guarded` that touch a
  // part of the text in `plain` (sorted) do not match; `guarded` may be empty where `plain` is.
  std::vector<AddedTokenMatch> find_all(std::string_view text, const TokenFilter& filter,
                                        const std::vector<Span>& plain, const TokenFilter& guarded) const;

  // The leftmost token of the filter, whatever its flags; nullptr if the text has none.
  const AddedToken* find_first(std::string_view text, const TokenFilter& filter) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Node {
    std::unordered_map<unsigned char, uint32_t> children;
    uint32_t token = kNone;
  };

  void insert(std::string_view content, uint32_t token);
  uint32_t longest_at(std::string_view text, size_t at, const TokenFilter& filter,
                      const TokenFilter* refused) const;
  std::optional<AddedTokenMatch> extend(std::string_view text, size_t at, const AddedToken& token,
                                        size_t taken) const;

  const std::vector<AddedToken>* tokens_;
  std::vector<Node> nodes_;
  bool starts_[256] = {};
};

}  // namespace pyllm::tokenizers
