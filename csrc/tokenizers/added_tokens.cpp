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
    : AddedTokenMatcher(tokens, added_trie(tokens, include)) {}

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, DoubleArrayTrie trie)
    : tokens_(&tokens), trie_(std::move(trie)) {
  for (int byte = 0; byte < 256; ++byte) {
    uint32_t node = DoubleArrayTrie::kRoot;
    starts_[byte] = trie_.step(node, static_cast<char>(byte));
    if (starts_[byte]) first_bytes_.push_back(static_cast<char>(byte));
  }
}

DoubleArrayTrie added_trie(const std::vector<AddedToken>& tokens, const std::vector<bool>& include) {
  std::vector<DoubleArrayTrie::Entry> entries;
  // A trie keeps the smallest value of equal keys, so values count from the end.
  for (size_t i = 0; i < tokens.size(); ++i) {
    check_sought(tokens[i].content, "added_tokens");
    if (include[i]) entries.emplace_back(tokens[i].content, static_cast<uint32_t>(tokens.size() - 1 - i));
  }
  return DoubleArrayTrie(std::move(entries));
}

void store_added(const std::vector<AddedToken>& tokens, SectionWriter& file) {
  TokenBytesBuilder contents;
  std::vector<TokenId> ids;
  std::vector<uint8_t> flags;
  for (const AddedToken& token : tokens) {
    contents.add(token.content);
    ids.push_back(token.id);
    flags.push_back(static_cast<uint8_t>(token.special | token.lstrip << 1 | token.rstrip << 2 |
                                         token.single_word << 3 | token.normalized << 4));
  }
  contents.finish().store(file, "added.contents");
  file.array("added.ids", std::span<const TokenId>(ids));
  file.array("added.flags", std::span<const uint8_t>(flags));
}

void store_added_trie(const std::vector<AddedToken>& tokens, SectionWriter& file) {
  added_trie(tokens, std::vector<bool>(tokens.size(), true)).store(file, "added.trie");
}

std::vector<AddedToken> load_added(const SectionReader& file) {
  const TokenBytes contents = TokenBytes::load(file, "added.contents");
  const auto ids = file.array<TokenId>("added.ids");
  const auto flags = file.array<uint8_t>("added.flags");
  if (ids.size() != contents.size() || flags.size() != contents.size()) {
    file.fail("added.ids", "expected one for every token");
  }
  std::vector<AddedToken> tokens;
  tokens.reserve(ids.size());
  for (TokenId i = 0; i < ids.size(); ++i) {
    const auto flag = [&](int bit) { return (flags[i] >> bit & 1) != 0; };
    tokens.push_back({std::string(contents[i]), ids[i], flag(0), flag(1), flag(2), flag(3), flag(4)});
  }
  return tokens;
}

// A match has the length of the content, not of the path, so each content has to lead to its own token, and
// nothing else to any.
DoubleArrayTrie load_added_trie(const std::vector<AddedToken>& tokens, const SectionReader& file) {
  DoubleArrayTrie trie(file, "added.trie", static_cast<uint32_t>(tokens.size()));
  size_t own = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    check_sought(tokens[i].content, "added_tokens");
    uint32_t node = DoubleArrayTrie::kRoot;
    if (!trie.walk(node, tokens[i].content)) file.fail("added.trie", "a token is not in it");
    own += trie.value(node) == tokens.size() - 1 - i;
  }
  if (own != trie.count_values()) file.fail("added.trie", "a path to another token");
  return trie;
}

// Of `at` and later the first place where a token may start; the end of the text if there is none.
size_t AddedTokenMatcher::next_start(std::string_view text, size_t at) const {
  if (first_bytes_.size() == 1) return std::min(text.find(first_bytes_[0], at), text.size());
  while (at < text.size() && !starts_[static_cast<unsigned char>(text[at])]) ++at;
  return at;
}

uint32_t AddedTokenMatcher::longest_at(std::string_view text, size_t at, const TokenFilter& filter,
                                       const TokenFilter* refused) const {
  uint32_t best = kNone, node = DoubleArrayTrie::kRoot;
  for (; at < text.size() && trie_.step(node, text[at]); ++at) {
    if (trie_.value(node) == DoubleArrayTrie::kNoValue) continue;
    const uint32_t token = static_cast<uint32_t>(tokens_->size()) - 1 - trie_.value(node);
    if (filter[token] && !(refused != nullptr && (*refused)[token])) best = token;
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
  // As in tokenizers, a token with lstrip that lies in whitespace which rstrip took is not there.
  if (token.lstrip) begin = std::max(begin, taken);
  if (begin >= end) return std::nullopt;
  return AddedTokenMatch{begin, end, &token};
}

std::vector<AddedTokenMatch> AddedTokenMatcher::find_all(std::string_view text, const TokenFilter& filter,
                                                         const std::vector<Span>& plain,
                                                         const TokenFilter& guarded) const {
  std::vector<AddedTokenMatch> matches;
  if (first_bytes_.empty() || std::find(filter.begin(), filter.end(), true) == filter.end()) return matches;
  auto span = plain.begin();
  size_t taken = 0;
  for (size_t at = next_start(text, 0); at < text.size(); at = next_start(text, at)) {
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
      taken = match->end;
    }
    // Whitespace that rstrip took may still begin the next token, and follow it, as in tokenizers.
    at += token.content.size();
  }
  return matches;
}

const AddedToken* AddedTokenMatcher::find_first(std::string_view text, const TokenFilter& filter) const {
  if (first_bytes_.empty()) return nullptr;
  for (size_t at = next_start(text, 0); at < text.size(); at = next_start(text, at + 1)) {
    const uint32_t found = longest_at(text, at, filter, nullptr);
    if (found != kNone) return &(*tokens_)[found];
  }
  return nullptr;
}

}  // namespace pyllm::tokenizers
