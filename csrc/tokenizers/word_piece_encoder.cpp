#include "word_piece_encoder.h"

#include <stdexcept>

#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

std::vector<DoubleArrayTrie::Entry> entries_of(const WordPieceDefinition& definition) {
  std::vector<DoubleArrayTrie::Entry> entries;
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    if (!definition.usable[id]) continue;
    check_sought(definition.tokens[id], "a WordPiece token");
    entries.emplace_back(definition.tokens[id], static_cast<uint32_t>(id));
  }
  return entries;
}

bool longer_than(std::string_view word, size_t characters) {
  if (word.size() <= characters) return false;
  size_t count = 0;
  for (size_t at = 0; at < word.size(); at += decode_utf8(word, at).length) ++count;
  return count > characters;
}

}  // namespace

WordPieceEncoder::WordPieceEncoder(const WordPieceDefinition& definition)
    : trie_(entries_of(definition)),
      has_continuations_(trie_.walk(continuations_, definition.prefix)),
      unknown_(definition.unknown),
      max_characters_(definition.max_characters) {
  if (unknown_ >= definition.tokens.size()) throw std::invalid_argument("WordPiece: no unknown token");
}

WordPieceEncoder::WordPieceEncoder(const WordPieceDefinition& definition, size_t count,
                                   const SectionReader& file)
    : trie_(file, "model.trie", static_cast<uint32_t>(count)),
      has_continuations_(trie_.walk(continuations_, definition.prefix)),
      unknown_(definition.unknown),
      max_characters_(definition.max_characters) {
  if (unknown_ >= count) throw std::invalid_argument("WordPiece: no unknown token");
}

void WordPieceEncoder::encode_piece(std::string_view word, EncoderScratch&, std::vector<TokenId>& ids,
                                    std::vector<size_t>* lengths) const {
  const size_t ids_before = ids.size(), lengths_before = lengths != nullptr ? lengths->size() : 0;
  if (!longer_than(word, max_characters_) && append_tokens(word, ids, lengths)) return;
  ids.resize(ids_before);
  ids.push_back(unknown_);
  if (lengths == nullptr) return;
  lengths->resize(lengths_before);
  lengths->push_back(word.size());
}

// False if a rest of the word has no token.
bool WordPieceEncoder::append_tokens(std::string_view word, std::vector<TokenId>& ids,
                                     std::vector<size_t>* lengths) const {
  for (size_t begin = 0; begin < word.size();) {
    if (begin > 0 && !has_continuations_) return false;
    uint32_t node = begin == 0 ? DoubleArrayTrie::kRoot : continuations_;
    uint32_t best = DoubleArrayTrie::kNoValue;
    size_t best_end = begin;
    for (size_t end = begin; end < word.size() && trie_.step(node, word[end]);) {
      ++end;
      if (trie_.value(node) == DoubleArrayTrie::kNoValue) continue;
      best = trie_.value(node);
      best_end = end;
    }
    if (best == DoubleArrayTrie::kNoValue) return false;
    ids.push_back(best);
    if (lengths != nullptr) lengths->push_back(best_end - begin);
    begin = best_end;
  }
  return true;
}

}  // namespace pyllm::tokenizers
