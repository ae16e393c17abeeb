#include "character_pair_encoder.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "encoder_scratch.h"
#include "marker.h"
#include "merge_rules.h"
#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

std::vector<TokenId> usable_ids(const CharacterPairDefinition& definition) {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < definition.vocabulary.size(); ++id) {
    const bool usable =
        definition.vocabulary.contains(id) && definition.usable[id] && !definition.vocabulary[id].empty();
    if (usable) ids.push_back(id);
  }
  return ids;
}

// Characters of tokens that are no tokens themselves: with scores they may merge all the same.
std::vector<std::string_view> tokenless_characters(const CharacterPairDefinition& definition) {
  std::vector<std::string_view> characters;
  if (definition.scores.empty()) return characters;
  const std::vector<TokenId> ids = usable_ids(definition);
  std::unordered_set<std::string_view> known;
  for (const TokenId id : ids) known.insert(definition.vocabulary[id]);
  for (const TokenId id : ids) {
    const std::string_view token = definition.vocabulary[id];
    for (size_t at = 0; at < token.size();) {
      const std::string_view character = token.substr(at, decode_utf8(token, at).length);
      if (known.insert(character).second) characters.push_back(character);
      at += character.size();
    }
  }
  return characters;
}

TokenBytes all_tokens(const CharacterPairDefinition& definition) {
  const std::vector<std::string_view> characters = tokenless_characters(definition);
  if (characters.empty()) return definition.vocabulary;
  TokenBytesBuilder builder;
  for (TokenId id = 0; id < definition.vocabulary.size(); ++id) {
    builder.bytes().append(definition.vocabulary[id]);
    builder.close(definition.vocabulary.contains(id));
  }
  for (const std::string_view character : characters) builder.add(character);
  return builder.finish();
}

// Ranks by falling score; equal scores share a rank.
std::vector<uint32_t> ranks_of(const std::vector<float>& scores) {
  std::map<float, uint32_t, std::greater<>> ranks;
  for (const float score : scores) {
    if (score != score) throw std::invalid_argument("scores: a score is not a number");
    ranks.try_emplace(score, 0);
  }
  uint32_t rank = 0;
  for (auto& entry : ranks) entry.second = rank++;
  std::vector<uint32_t> result;
  for (const float score : scores) result.push_back(ranks[score]);
  return result;
}

std::vector<MergeRule> rules_by_score(const CharacterPairDefinition& definition, const TokenBytes& tokens,
                                      const TokenTable& table) {
  if (definition.scores.size() != definition.vocabulary.size()) {
    throw std::invalid_argument("scores: expected one for every token");
  }
  const std::vector<uint32_t> ranks = ranks_of(definition.scores);
  std::vector<MergeRule> rules = rules_of_ranked_tokens(tokens, table, usable_ids(definition));
  for (MergeRule& rule : rules) rule.rank = ranks[rule.merged];
  std::stable_sort(rules.begin(), rules.end(),
                   [](const MergeRule& a, const MergeRule& b) { return a.rank < b.rank; });
  return rules;
}

FrozenArray<uint32_t> before_marker(const CharacterPairDefinition& definition) {
  std::vector<std::string_view> tokens;
  for (const TokenId id : usable_ids(definition)) tokens.push_back(definition.vocabulary[id]);
  for (const TokenId id : definition.frozen) tokens.push_back(definition.vocabulary[id]);
  return FrozenArray<uint32_t>(characters_before_marker(tokens));
}

TokenTable table_of(const CharacterPairDefinition& definition, const TokenBytes& tokens) {
  std::vector<TokenId> ids = usable_ids(definition);
  for (size_t id = definition.vocabulary.size(); id < tokens.size(); ++id) {
    ids.push_back(static_cast<TokenId>(id));
  }
  TokenTable table(tokens);
  table.fill(ids);
  return table;
}

std::vector<MergeRule> rules_of(const CharacterPairDefinition& definition, const TokenBytes& tokens,
                                const TokenTable& table) {
  return definition.scores.empty() ? checked_rules(definition.merges, tokens)
                                   : rules_by_score(definition, tokens, table);
}

bool drops_unknown(const CharacterPairDefinition& definition) {
  const Fallback& fallback = definition.fallback;
  return definition.scores.empty() && !fallback.spells_all() && fallback.unknown == kNoToken;
}

std::vector<DoubleArrayTrie::Entry> frozen_entries(const CharacterPairDefinition& definition) {
  std::vector<DoubleArrayTrie::Entry> entries;
  for (const TokenId id : definition.frozen) {
    check_sought(definition.vocabulary[id], "a user-defined symbol");
    entries.emplace_back(definition.vocabulary[id], id);
  }
  return entries;
}

}  // namespace

CharacterPairEncoder::CharacterPairEncoder(const CharacterPairDefinition& definition)
    : vocabulary_size_(definition.vocabulary.size()),
      tokens_(all_tokens(definition)),
      table_(table_of(definition, tokens_)),
      characters_(tokens_, table_),
      fallback_(definition.fallback),
      merges_(rules_of(definition, tokens_, table_)),
      joined_(merges_, tokens_),
      frozen_(frozen_entries(definition)),
      ignore_merges_(definition.ignore_merges),
      drops_unknown_(drops_unknown(definition)),
      // Unknown characters fuse across a border only if the marker itself is unknown.
      can_cut_(table_.find(kMarker) != kNoToken),
      before_marker_(before_marker(definition)) {}

CharacterPairEncoder::CharacterPairEncoder(const CharacterPairDefinition& definition,
                                           const SectionReader& file)
    : vocabulary_size_(definition.vocabulary.size()),
      tokens_(file.has("model.tokens.entries") ? TokenBytes::load(file, "model.tokens")
                                               : definition.vocabulary),
      table_(tokens_),
      fallback_(definition.fallback),
      merges_(file, "model.merge_table", tokens_),
      joined_(file.has("model.joined") ? JoinedCharacters(file, "model.joined")
                                       : JoinedCharacters(merges_, tokens_)),
      frozen_(file, "model.frozen", static_cast<uint32_t>(definition.vocabulary.size())),
      ignore_merges_(definition.ignore_merges),
      drops_unknown_(drops_unknown(definition)),
      before_marker_(file.array<uint32_t>("model.before_marker")) {
  table_.load(file, "model.table");
  characters_ = CharacterTokens(tokens_, table_);
  can_cut_ = table_.find(kMarker) != kNoToken;
  if (tokens_.size() < vocabulary_size_) file.fail("model.tokens", "fewer tokens than the vocabulary has");
}

void CharacterPairEncoder::store(SectionWriter& file) const {
  if (tokens_.size() > vocabulary_size_) tokens_.store(file, "model.tokens");
  table_.store(file, "model.table");
  merges_.store(file, "model.merge_table");
  joined_.store(file, "model.joined");
  frozen_.store(file, "model.frozen");
  file.array("model.before_marker", before_marker_);
}

// In the order in which scores give them: by rank, of equal ranks by id, of one token by the length of its
// left part.
std::vector<MergeRule> CharacterPairEncoder::merges() const {
  std::vector<MergeRule> rules = merges_.rules();
  const auto place = [&](const MergeRule& rule) {
    return std::tuple(rule.rank, rule.merged, tokens_[rule.left].size());
  };
  std::sort(rules.begin(), rules.end(),
            [&](const MergeRule& a, const MergeRule& b) { return place(a) < place(b); });
  return rules;
}

// The next place after `begin` where the piece may be cut, or its end.
size_t CharacterPairEncoder::next_cut(std::string_view piece, size_t begin) const {
  if (!can_cut_) return piece.size();
  for (size_t at = piece.find(kMarker, begin + 1); at < piece.size(); at = piece.find(kMarker, at + 1)) {
    const uint32_t before = decode_utf8(piece, previous_utf8(piece, at)).code_point;
    const bool crossed = before == kMarkerCodePoint ||
                         std::binary_search(before_marker_.begin(), before_marker_.end(), before);
    if (!crossed) return at;
  }
  return piece.size();
}

void CharacterPairEncoder::encode_piece(std::string_view piece, EncoderScratch& scratch,
                                        std::vector<TokenId>& ids, std::vector<size_t>* lengths) const {
  if (ignore_merges_) {
    if (const TokenId id = table_.find(piece); id != kNoToken) {
      FallbackWriter(fallback_, ids, lengths).known(id, piece.size());
      return;
    }
  }
  if (drops_unknown_) {
    encode_known_characters(piece, scratch, ids, lengths);
  } else {
    encode_characters(piece, scratch, ids, lengths);
  }
}

// Characters that no token and no bytes stand for are gone before merging, as in tokenizers, so that their
// neighbours may merge. Their bytes belong to the token before, those in front to the first.
void CharacterPairEncoder::encode_known_characters(std::string_view piece, EncoderScratch& scratch,
                                                   std::vector<TokenId>& ids,
                                                   std::vector<size_t>* lengths) const {
  std::string known;
  std::vector<size_t> origins;  // by byte of `known`
  for (size_t at = 0; at < piece.size();) {
    const std::string_view character = piece.substr(at, decode_utf8(piece, at).length);
    if (table_.find(character) != kNoToken || fallback_.spells(character)) {
      known += character;
      origins.insert(origins.end(), character.size(), at);
    }
    at += character.size();
  }
  std::vector<size_t> known_lengths;
  encode_characters(known, scratch, ids, lengths == nullptr ? nullptr : &known_lengths);
  size_t at = 0, begin = 0;
  for (const size_t length : known_lengths) {
    at += length;
    const size_t end = at == known.size() ? piece.size() : origins[at];
    lengths->push_back(end - begin);
    begin = end;
  }
}

void CharacterPairEncoder::encode_characters(std::string_view piece, EncoderScratch& scratch,
                                             std::vector<TokenId>& ids, std::vector<size_t>* lengths) const {
  FallbackWriter writer(fallback_, ids, lengths);
  size_t begin = 0;
  for (size_t at = 0; at < piece.size();) {
    const auto [frozen, length] = frozen_.longest_at(piece, at);
    if (length == 0) {
      at += decode_utf8(piece, at).length;
      continue;
    }
    encode_unfrozen(piece.substr(begin, at - begin), scratch, writer, lengths, ids);
    writer.known(frozen, length);
    at += length;
    begin = at;
  }
  encode_unfrozen(piece.substr(begin), scratch, writer, lengths, ids);
}

bool CharacterPairEncoder::cuts_between(uint32_t before, uint32_t after) const {
  return can_cut_ && !ignore_merges_ && !drops_unknown_ && after == kMarkerCodePoint &&
         before != kMarkerCodePoint &&
         !std::binary_search(before_marker_.begin(), before_marker_.end(), before);
}

// Words without unknown characters go through the cache.
void CharacterPairEncoder::encode_unfrozen(std::string_view text, EncoderScratch& scratch,
                                           FallbackWriter& writer, std::vector<size_t>* lengths,
                                           std::vector<TokenId>& ids) const {
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = next_cut(text, begin);
    const std::string_view word = text.substr(begin, end - begin);
    const bool cacheable = lengths == nullptr && (fallback_.has_bytes || fallback_.unknown == kNoToken);
    const uint64_t hash = cacheable ? hash_bytes(word) : 0;
    if (cacheable && scratch.cache.append(word, hash, ids)) continue;
    const size_t before = ids.size();
    encode_word(word, scratch, writer);
    if (cacheable) scratch.cache.store(word, hash, {ids.data() + before, ids.size() - before});
  }
}

std::vector<MergeStep> CharacterPairEncoder::merge_steps(std::string_view piece) const {
  std::vector<MergeStep> steps;
  std::vector<PieceSymbol> symbols;
  for (size_t at = 0; at < piece.size();) {
    if (const size_t frozen = frozen_.longest_at(piece, at).second; frozen > 0) {
      append_merge_steps(merges_, std::exchange(symbols, {}), steps);
      at += frozen;
      continue;
    }
    const size_t length = decode_utf8(piece, at).length;
    const TokenId id = table_.find(piece.substr(at, length));
    const bool kept = id != kNoToken || !drops_unknown_ || fallback_.spells(piece.substr(at, length));
    if (kept) symbols.push_back({id, {at, at + length}});
    at += length;
  }
  append_merge_steps(merges_, std::move(symbols), steps);
  return steps;
}

// Merges the symbols from `first` on.
void CharacterPairEncoder::merge_from(size_t first, EncoderScratch& scratch) const {
  std::vector<TokenId>& symbols = scratch.symbols;
  if (symbols.size() - first < 2) return;
  if (first == 0) {
    scratch.merger.merge(merges_, symbols);
    return;
  }
  std::vector<TokenId> part(symbols.begin() + static_cast<ptrdiff_t>(first), symbols.end());
  scratch.merger.merge(merges_, part);
  symbols.resize(first);
  symbols.insert(symbols.end(), part.begin(), part.end());
}

void CharacterPairEncoder::encode_word(std::string_view word, EncoderScratch& scratch,
                                       FallbackWriter& writer) const {
  scratch.symbols.clear();
  size_t first = 0;  // of the symbols that are not merged yet
  uint32_t before = 0;
  for (size_t at = 0; at < word.size();) {
    const Utf8Character character = decode_utf8(word, at);
    if (at > 0 && !joined_.may_join(before, character.code_point)) {
      merge_from(first, scratch);
      first = scratch.symbols.size();
    }
    before = character.code_point;
    const std::string_view bytes = word.substr(at, character.length);
    scratch.symbols.push_back(characters_.find(character.code_point, bytes, table_));
    at += character.length;
  }
  merge_from(first, scratch);
  size_t at = 0;
  for (const TokenId id : scratch.symbols) {
    const size_t length = id == kNoToken ? decode_utf8(word, at).length : tokens_[id].size();
    if (id < vocabulary_size_) {
      writer.known(id, length);
    } else {
      writer.unknown(word.substr(at, length));
    }
    at += length;
  }
}

}  // namespace pyllm::tokenizers
