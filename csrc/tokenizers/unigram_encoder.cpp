#include "unigram_encoder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "encoder_scratch.h"
#include "marker.h"
#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

constexpr double kUnknownPenalty = 10;
// Where sentencepiece starts to count scores from zero again, so that rounding does not grow with the text.
constexpr double kLowestSum = -1e5;
// Tokens of more bytes are found by their ends; real vocabularies have none, for them the walks are faster.
constexpr size_t kLongestWalk = 256;

// Where the sums of a path were counted from zero again: `zero` was taken from all at `at` and behind it.
struct NewZero {
  size_t at;
  double zero;
};

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

double unknown_score(const UnigramDefinition& definition) {
  const double score = definition.lowest_score - kUnknownPenalty;
  return definition.arithmetic == UnigramArithmetic::float32 ? static_cast<float>(score) : score;
}

void check_scores(const FrozenArray<double>& scores) {
  for (const double score : scores) {
    if (std::isnan(score)) throw std::invalid_argument("scores: a score is not a number");
  }
}

}  // namespace

UnigramEncoder::UnigramEncoder(const UnigramDefinition& definition)
    : trie_(entries_of(definition)),
      scores_(scores_of(definition)),
      fallback_(definition.fallback),
      unknown_score_(unknown_score(definition)),
      round_(definition.arithmetic == UnigramArithmetic::float32) {
  if (definition.scores.size() != definition.tokens.size()) {
    throw std::invalid_argument("scores: expected one for every token");
  }
  check_scores(scores_);
  find_borders(definition);
}

UnigramEncoder::UnigramEncoder(const UnigramDefinition& definition, const SectionReader& file)
    : trie_(file, "model.trie", static_cast<uint32_t>(definition.tokens.size())),
      scores_(file.array<double>("model.scores")),
      fallback_(definition.fallback),
      unknown_score_(unknown_score(definition)),
      round_(definition.arithmetic == UnigramArithmetic::float32) {
  if (scores_.size() != definition.tokens.size()) {
    file.fail("model.scores", "expected one for every token");
  }
  check_scores(scores_);
  find_borders(definition);
}

void UnigramEncoder::store(SectionWriter& file) const {
  trie_.store(file, "model.trie");
  file.array("model.scores", scores_);
}

// What `cuts_between` and `limit_of` need to know.
void UnigramEncoder::find_borders(const UnigramDefinition& definition) {
  std::vector<std::string_view> tokens;
  largest_score_ = std::abs(unknown_score_);
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    if (!definition.usable[id]) continue;
    const std::string_view token = definition.tokens[id];
    tokens.push_back(token);
    knows_marker_ = knows_marker_ || token == kMarker;
    // Unknown characters are one with an unknown token beside them.
    marker_is_unknown_ = marker_is_unknown_ || (id == fallback_.unknown && token.starts_with(kMarker));
    largest_score_ = std::max(largest_score_, std::abs(scores_[id]));
    longest_ = std::max(longest_, token.size());
  }
  before_marker_ = characters_before_marker(tokens);
  if (longest_ > kLongestWalk) ending_tokens_ = EndingKeys(trie_);
}

void UnigramEncoder::offer(PathNode& node, double score, uint32_t length, TokenId id) const {
  const double kept = rounded(score);
  if (node.length == 0) {
    node = {kept, length, id, std::numeric_limits<double>::infinity()};
  } else if (kept > node.score) {
    node = {kept, length, id, kept - node.score};
  } else {
    node.lead = std::min(node.lead, node.score - kept);
  }
}

// All ways go over `begin` or have reached an end after it, which is not far.
void UnigramEncoder::count_from_zero(std::vector<PathNode>& path, size_t begin) const {
  const double zero = path[begin].score;
  const size_t last = std::min(path.size() - 1, begin + longest_);
  for (size_t end = begin; end <= last; ++end) {
    if (end == begin || path[end].length > 0) path[end].score = rounded(path[end].score - zero);
  }
}

// An unknown character leaves id kNoToken.
void UnigramEncoder::find_best_path(std::string_view piece, double start, std::vector<PathNode>& path) const {
  path.assign(piece.size() + 1, {});
  path[0].score = start;
  if (!ending_tokens_.empty()) return find_best_path_by_ends(piece, path);
  for (size_t begin = 0; begin < piece.size();) {
    const size_t character = decode_utf8(piece, begin).length;
    if (round_ && path[begin].score < kLowestSum) count_from_zero(path, begin);
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

// The same ways in the same order at each end, so that equal scores fall the same way; sums that lead over a
// new zero are taken to it one after the other, as if they had stood at the end by then.
void UnigramEncoder::find_best_path_by_ends(std::string_view piece, std::vector<PathNode>& path) const {
  std::vector<NewZero> zeros;
  uint32_t node = DoubleArrayTrie::kRoot;
  for (size_t begin = 0; begin < piece.size();) {
    const size_t character = decode_utf8(piece, begin).length, end = begin + character;
    if (round_ && path[begin].score < kLowestSum) {
      zeros.push_back({begin, path[begin].score});
      path[begin].score = 0;
    }
    for (size_t at = begin; at < end; ++at) node = ending_tokens_.step(trie_, node, piece[at]);
    PathNode& best = path[end];
    size_t passed = zeros.size();  // by what stands at the end
    const auto offer_from = [&](size_t from, double score, TokenId id) {
      if (best.length == 0) {
        while (passed > 0 && zeros[passed - 1].at > from) --passed;
      } else {
        for (; passed < zeros.size() && zeros[passed].at <= from; ++passed) {
          best.score = rounded(best.score - zeros[passed].zero);
        }
      }
      offer(best, score + path[from].score, static_cast<uint32_t>(end - from), id);
    };
    bool covered = false;
    ending_tokens_.for_each(trie_, node, [&](uint32_t id, size_t length) {
      const size_t from = end - length;
      if (from > 0 && path[from].length == 0) return;  // inside of a character
      offer_from(from, scores_[id], id);
      covered = covered || from == begin;
    });
    if (!covered) offer_from(begin, unknown_score_, kNoToken);
    begin = end;
  }
}

// The path is known from its end: ends are turned around to walk it from the start.
void UnigramEncoder::append_path(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                                 std::vector<size_t>* lengths) const {
  const std::vector<PathNode>& path = scratch.path;
  scratch.symbols.clear();
  for (size_t end = piece.size(); end > 0; end -= path[end].length) {
    scratch.symbols.push_back(static_cast<TokenId>(end));
  }
  FallbackWriter writer(fallback_, ids, lengths);
  const auto is_unknown = [&](TokenId id) { return id == kNoToken || id == fallback_.unknown; };
  // Neighbours are unknown together: all of them become bytes, or none.
  size_t unknown_begin = 0, unknown_end = 0;
  const auto write_unknown = [&] {
    if (unknown_begin < unknown_end) writer.unknown(piece.substr(unknown_begin, unknown_end - unknown_begin));
  };
  for (auto end = scratch.symbols.rbegin(); end != scratch.symbols.rend(); ++end) {
    const PathNode& node = path[*end];
    // The unknown token spelled out is unknown text like its neighbours, and itself where it stands alone.
    const bool beside = (end != scratch.symbols.rbegin() && is_unknown(path[*(end - 1)].id)) ||
                        (end + 1 != scratch.symbols.rend() && is_unknown(path[*(end + 1)].id));
    if (node.id == kNoToken || (node.id == fallback_.unknown && beside)) {
      if (unknown_begin == unknown_end) unknown_begin = *end - node.length;
      unknown_end = *end;
    } else {
      write_unknown();
      unknown_begin = unknown_end = *end;
      writer.known(node.id, node.length);
    }
  }
  write_unknown();
}

void UnigramEncoder::encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                                  std::vector<size_t>* lengths) const {
  if (piece.size() >= UINT32_MAX) throw std::length_error("a piece of text holds 2^32 bytes or more");
  find_best_path(piece, 0, scratch.path);
  append_path(piece, scratch, ids, lengths);
}

TokenId UnigramEncoder::encode_next(std::string_view piece, EncoderScratch& scratch,
                                    std::vector<TokenId>& ids) const {
  if (piece.size() >= UINT32_MAX) throw std::length_error("a piece of text holds 2^32 bytes or more");
  const double start = scratch.path_score;
  find_best_path(piece, start, scratch.path);
  append_path(piece, scratch, ids, nullptr);
  scratch.path_score = scratch.path[piece.size()].score;
  const float limit = limit_of(piece, start, scratch);
  return limit > 0 ? std::bit_cast<TokenId>(limit) : kNoToken;
}

// Up to which score at its start the path of the piece stays the best, whatever rounding does: 0 if that is
// not known.
//
// n additions of numbers below |start| + n * largest are off by less than n * (|start| + n * largest) / 2^24
// in all, so that a lead of more than twice that, here and there, is one.
float UnigramEncoder::limit_of(std::string_view piece, double start, const EncoderScratch& scratch) const {
  constexpr double kUnit = 1.0 / (1 << 24);
  double lead = std::numeric_limits<double>::infinity();
  for (const TokenId end : scratch.symbols) {
    if (scratch.path[end].id == kNoToken || scratch.path[end].id == fallback_.unknown) return 0;
    lead = std::min(lead, scratch.path[end].lead);
  }
  const double steps = static_cast<double>(piece.size());
  const double within = steps * largest_score_;
  const double off = 2 * steps * kUnit;
  const double far = std::abs(start) + within;
  if (far >= -kLowestSum) return 0;
  return static_cast<float>(std::min((lead - off * far) / off, -kLowestSum) - within);
}

bool UnigramEncoder::go_on(std::span<const TokenId> remembered, TokenId limit,
                           EncoderScratch& scratch) const {
  if (std::abs(scratch.path_score) >= std::bit_cast<float>(limit)) return false;
  for (const TokenId id : remembered) scratch.path_score = rounded(scores_[id] + scratch.path_score);
  return true;
}

bool UnigramEncoder::cuts_between(uint32_t before, uint32_t after) const {
  return knows_marker_ && !marker_is_unknown_ && after == kMarkerCodePoint && before != kMarkerCodePoint &&
         !std::binary_search(before_marker_.begin(), before_marker_.end(), before);
}

}  // namespace pyllm::tokenizers
