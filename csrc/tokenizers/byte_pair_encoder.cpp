#include "byte_pair_encoder.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "merge_rules.h"

namespace pyllm::tokenizers {
namespace {

std::vector<TokenId> mergeable_ids(const BytePairDefinition& definition) {
  std::vector<TokenId> ids;
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    const bool usable = definition.present[id] && definition.mergeable[id] && !definition.tokens[id].empty();
    if (usable) ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

TokenTable table_of(const TokenBytes& tokens, const std::vector<TokenId>& ids) {
  TokenTable table(tokens);
  table.fill(ids);
  return table;
}

std::vector<MergeRule> rules_of(const BytePairDefinition& definition, const TokenBytes& tokens) {
  if (definition.ranked_by_id) {
    const std::vector<TokenId> ids = mergeable_ids(definition);
    return rules_of_ranked_tokens(tokens, table_of(tokens, ids), ids);
  }
  return checked_rules(definition.merges, tokens);
}

}  // namespace

BytePairEncoder::BytePairEncoder(const BytePairDefinition& definition)
    : tokens_(definition.tokens, definition.present),
      rules_(rules_of(definition, tokens_)),
      merges_(rules_),
      whole_pieces_(tokens_) {
  const std::vector<TokenId> ids = mergeable_ids(definition);
  find_byte_tokens(table_of(tokens_, ids), definition.ranked_by_id);
  const bool whole_piece_first = definition.ranked_by_id || definition.ignore_merges;
  whole_pieces_.fill(whole_piece_first ? ids : reachable(ids));
}

void BytePairEncoder::find_byte_tokens(const TokenTable& table, bool all_required) {
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    const char text = static_cast<char>(byte);
    byte_tokens_[byte] = table.find(std::string_view(&text, 1));
    if (all_required && byte_tokens_[byte] == kNoToken) {
      throw std::invalid_argument("tokens: byte " + std::to_string(byte) + " has no token");
    }
  }
}

// The tokens that merging their own bytes gives; the others may only stand for a whole piece, and only if the
// definition ignores merges (588 tokens of Llama 3 are such).
std::vector<TokenId> BytePairEncoder::reachable(const std::vector<TokenId>& ids) const {
  std::vector<TokenId> result;
  EncoderScratch scratch;
  for (const TokenId id : ids) {
    merge_piece(tokens_[id], scratch);
    if (scratch.symbols.size() == 1 && scratch.symbols[0] == id) result.push_back(id);
  }
  return result;
}

void BytePairEncoder::merge_piece(std::string_view piece, EncoderScratch& scratch) const {
  scratch.symbols.clear();
  for (const char c : piece) {
    const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
    if (id != kNoToken) scratch.symbols.push_back(id);
  }
  scratch.merger.merge(merges_, scratch.symbols);
}

void BytePairEncoder::encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& out,
                                   std::vector<size_t>* lengths) const {
  const size_t before = out.size();
  const uint64_t hash = hash_bytes(piece);
  if (const TokenId id = whole_pieces_.find(piece, hash); id != kNoToken) {
    out.push_back(id);
  } else if (!scratch.cache.append(piece, hash, out)) {
    merge_piece(piece, scratch);
    scratch.cache.store(piece, hash, scratch.symbols);
    out.insert(out.end(), scratch.symbols.begin(), scratch.symbols.end());
  }
  if (lengths != nullptr) append_lengths(piece, out.data() + before, out.size() - before, *lengths);
}

// Bytes without a token belong to the token after them, at the end of the piece to the last one.
void BytePairEncoder::append_lengths(std::string_view piece, const TokenId* ids, size_t count,
                                     std::vector<size_t>& lengths) const {
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = at;
    for (size_t left = tokens_[ids[i]].size(); left > 0; ++at) {
      if (byte_tokens_[static_cast<unsigned char>(piece[at])] != kNoToken) --left;
    }
    lengths.push_back(i + 1 == count ? piece.size() - begin : at - begin);
  }
}

}  // namespace pyllm::tokenizers
