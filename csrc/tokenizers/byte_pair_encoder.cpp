#include "byte_pair_encoder.h"

#include <algorithm>
#include <stdexcept>
#include <string>

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

void check_merge(const TokenBytes& tokens, const MergeRule& rule) {
  for (const TokenId id : {rule.left, rule.right, rule.merged}) {
    if (!tokens.contains(id)) {
      throw std::invalid_argument("merges: rank " + std::to_string(rule.rank) + " names id " +
                                  std::to_string(id) + ", which has no token");
    }
  }
  if (std::string(tokens[rule.left]).append(tokens[rule.right]) != tokens[rule.merged]) {
    throw std::invalid_argument("merges: the two parts of rank " + std::to_string(rule.rank) +
                                " do not join to its token, id " + std::to_string(rule.merged));
  }
}

std::vector<MergeRule> rules_of(const BytePairDefinition& definition, const TokenBytes& tokens) {
  if (definition.ranked_by_id) {
    const std::vector<TokenId> ids = mergeable_ids(definition);
    return rules_of_ranked_tokens(tokens, table_of(tokens, ids), ids);
  }
  for (const MergeRule& rule : definition.merges) check_merge(tokens, rule);
  return definition.merges;
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

void BytePairEncoder::encode_piece(std::string_view piece, EncoderScratch& scratch,
                                   std::vector<TokenId>& out) const {
  const uint64_t hash = hash_bytes(piece);
  if (const TokenId id = whole_pieces_.find(piece, hash); id != kNoToken) {
    out.push_back(id);
    return;
  }
  if (scratch.cache.append(piece, hash, out)) return;
  merge_piece(piece, scratch);
  scratch.cache.store(piece, hash, scratch.symbols);
  out.insert(out.end(), scratch.symbols.begin(), scratch.symbols.end());
}

}  // namespace pyllm::tokenizers
