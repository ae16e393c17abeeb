#include "unigram_encoder.h"

#include <cmath>
#include <stdexcept>

#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

constexpr double kUnknownPenalty = 10;

std::vector<DoubleArrayTrie::Entry> entries_of(const UnigramDefinition& definition) {
  std::vector<DoubleArrayTrie::Entry> entries;
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    if (definition.usable[id]) entries.emplace_back(definition.tokens[id], static_cast<uint32_t>(id));
  }
  return entries;
}

// A user-defined symbol is worth the best score for each of its bytes.
std::vector<double> scores_of(const UnigramDefinition& definition) {
  std::vector<double> scores = definition.scores;
  for (const TokenId id : definition.user_defined) {
    const auto length = static_cast<double>(definition.tokens.at(id).size());
    scores[id] = static_cast<float>(length * definition.highest_score - 0.1);
  }
  return scores;
}

}  // namespace

UnigramEncoder::UnigramEncoder(const UnigramDefinition& definition)
    : trie_(entries_of(definition)),
      scores_(scores_of(definition)),
      fallback_(definition.fallback),
      unknown_score_(definition.lowest_score - kUnknownPenalty),
      round_(definition.arithmetic == UnigramArithmetic::float32) {
  if (definition.scores.size() != definition.tokens.size()) {
    throw std::invalid_argument("scores: expected one for every token");
  }
  for (const double score : scores_) {
    if (std::isnan(score)) throw std::invalid_argument("scores: a score is not a number");
  }
  if (round_) unknown_score_ = static_cast<float>(unknown_score_);
}

void UnigramEncoder::offer(PathNode& node, double score, uint32_t length, TokenId id) const {
  const double kept = round_ ? static_cast<double>(static_cast<float>(score)) : score;
  if (node.length == 0 || kept > node.score) node = {kept, length, id};
}

// An unknown character leaves id kNoToken.
void UnigramEncoder::find_best_path(std::string_view piece, std::vector<PathNode>& path) const {
  path.assign(piece.size() + 1, {});
  for (size_t begin = 0; begin < piece.size();) {
    const size_t character = decode_utf8(piece, begin).length;
    const double score = path[begin].score;
    bool covered = false;
    uint32_t node = DoubleArrayTrie::kRoot;
    for (size_t end = begin; end < piece.size() && trie_.step(node, piece[end]);) {
      ++end;
      const uint32_t id = trie_.value(node);
      if (id == DoubleArrayTrie::kNoValue) continue;
      offer(path[end], scores_[id] + score, static_cast<uint32_t>(end - begin), id);
      covered = covered || end - begin == character;
    }
    if (!covered) {
      offer(path[begin + character], unknown_score_ + score, static_cast<uint32_t>(character), kNoToken);
    }
    begin += character;
  }
}

// The path is known from its end: lengths are turned around to walk it from the start.
void UnigramEncoder::encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                                  std::vector<size_t>* lengths) const {
  if (piece.size() >= UINT32_MAX) throw std::length_error("a piece of text holds 2^32 bytes or more");
  std::vector<PathNode>& path = scratch.path;
  find_best_path(piece, path);
  scratch.symbols.clear();
  for (size_t end = piece.size(); end > 0; end -= path[end].length) {
    scratch.symbols.push_back(static_cast<TokenId>(end));
  }
  FallbackWriter writer(fallback_, ids, lengths);
  const auto is_unknown = [&](TokenId id) { return id == kNoToken || id == fallback_.unknown; };
  for (auto end = scratch.symbols.rbegin(); end != scratch.symbols.rend(); ++end) {
    const PathNode& node = path[*end];
    // The unknown token spelled out is unknown text like its neighbours, and itself where it stands alone.
    const bool beside = (end != scratch.symbols.rbegin() && is_unknown(path[*(end - 1)].id)) ||
                        (end + 1 != scratch.symbols.rend() && is_unknown(path[*(end + 1)].id));
    if (node.id == kNoToken || (node.id == fallback_.unknown && beside)) {
      writer.unknown(piece.substr(*end - node.length, node.length));
    } else {
      writer.known(node.id, node.length);
    }
  }
}

}  // namespace pyllm::tokenizers
