#include "added_tokens.h"

#include <algorithm>

#include "character_class.h"

namespace pyllm::tokenizers {
namespace {

bool character_is(std::string_view text, size_t at, ClassSet set) {
  const CharacterTable& table = CharacterTable::instance();
  return (class_set(table.class_of(decode_utf8(text, at).code_point)) & set) != 0;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, const std::vector<bool>& include)
    : tokens_(&tokens), nodes_(1) {
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (include[i] && !tokens[i].content.empty()) insert(tokens[i].content, i);
  }
}

void AddedTokenMatcher::insert(std::string_view content, uint32_t token) {
  starts_[static_cast<unsigned char>(content[0])] = true;
  uint32_t node = 0;
  for (const char c : content) {
    const auto [child, added] = nodes_[node].children.try_emplace(static_cast<unsigned char>(c),
                                                                  static_cast<uint32_t>(nodes_.size()));
    const uint32_t next = child->second;
    if (added) nodes_.emplace_back();
    node = next;
  }
  nodes_[node].token = token;
}

uint32_t AddedTokenMatcher::longest_at(std::string_view text, size_t at, const TokenFilter& filter,
                                       const TokenFilter* refused) const {
  uint32_t best = kNone, node = 0;
  for (; at < text.size(); ++at) {
    const auto& children = nodes_[node].children;
    const auto child = children.find(static_cast<unsigned char>(text[at]));
    if (child == children.end()) break;
    node = child->second;
    const uint32_t token = nodes_[node].token;
    if (token != kNone && filter[token] && !(refused != nullptr && (*refused)[token])) best = token;
  }
  return best;
}

// Applies the flags to a token found at `at`; `taken` is the end of the match before it.
std::optional<AddedTokenMatch> AddedTokenMatcher::extend(std::string_view text, size_t at,
                                                         const AddedToken& token, size_t taken) const {
  size_t begin = at, end = at + token.content.size();
  if (token.single_word) {
    const bool joined_left = begin > 0 && character_is(text, previous_utf8(text, begin), kWordCharacters);
    const bool joined_right = end < text.size() && character_is(text, end, kWordCharacters);
    if (joined_left || joined_right) return std::nullopt;
  }
  while (token.lstrip && begin > taken) {
    const size_t before = previous_utf8(text, begin);
    if (!character_is(text, before, kSpaces)) break;
    begin = before;
  }
  while (token.rstrip && end < text.size() && character_is(text, end, kSpaces)) {
    end += decode_utf8(text, end).length;
  }
  return AddedTokenMatch{begin, end, &token};
}

std::vector<AddedTokenMatch> AddedTokenMatcher::find_all(std::string_view text, const TokenFilter& filter,
                                                         const std::vector<Span>& plain,
                                                         const TokenFilter& guarded) const {
  std::vector<AddedTokenMatch> matches;
  auto span = plain.begin();
  size_t taken = 0;
  for (size_t at = 0; at < text.size();) {
    if (!starts_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    while (span != plain.end() && span->end <= at) ++span;
    uint32_t found = longest_at(text, at, filter, nullptr);
    const bool touches_plain =
        found != kNone && span != plain.end() && span->begin < at + (*tokens_)[found].content.size();
    if (touches_plain) found = longest_at(text, at, filter, &guarded);
    if (found == kNone) {
      ++at;
      continue;
    }
    const AddedToken& token = (*tokens_)[found];
    if (const auto match = extend(text, at, token, taken)) {
      matches.push_back(*match);
      taken = std::max(taken, match->end);
    }
    // Whitespace that rstrip took may still begin the next token, as in tokenizers.
    at += token.content.size();
  }
  return matches;
}

const AddedToken* AddedTokenMatcher::find_first(std::string_view text, const TokenFilter& filter) const {
  for (size_t at = 0; at < text.size(); ++at) {
    if (!starts_[static_cast<unsigned char>(text[at])]) continue;
    const uint32_t found = longest_at(text, at, filter, nullptr);
    if (found != kNone) return &(*tokens_)[found];
  }
  return nullptr;
}

}  // namespace pyllm::tokenizers
