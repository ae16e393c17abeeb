#include "longest_match.h"

#include <algorithm>

#include "hash.h"

namespace pyllm::tokenizers {

std::unique_ptr<LongestMatchEncoder> LongestMatchEncoder::prove(const TokenBytes& tokens,
                                                                const std::array<TokenId, 256>& byte_tokens,
                                                                const std::vector<MergeRule>& rules,
                                                                const MergeTable& merges) {
  std::unique_ptr<LongestMatchEncoder> encoder(new LongestMatchEncoder(tokens, merges));
  for (const TokenId id : byte_tokens) {
    if (id != kNoToken) encoder->parts_[id].length = 1;
  }
  if (!encoder->learn(tokens, rules)) return nullptr;
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < tokens.size(); ++id) {
    if (encoder->reachable(id)) ids.push_back(id);
  }
  encoder->trie_ = std::make_unique<TokenTrie>(tokens, ids);
  encoder->shorter_.assign(tokens.size(), kNoToken);
  for (const TokenId id : ids) encoder->shorter_[id] = encoder->trie_->longest_beginning(tokens[id]);
  return encoder;
}

// Whether text can lead to the rule: its parts are made, and no later rule has replaced it.
bool LongestMatchEncoder::usable(const MergeRule& rule) const {
  return reachable(rule.left) && reachable(rule.right) &&
         merges_.find(rule.left, rule.right).rank == rule.rank;
}

// By ascending rank: a rule makes its token if its parts are made and nothing crosses between them before.
bool LongestMatchEncoder::learn(const TokenBytes& tokens, const std::vector<MergeRule>& rules) {
  for (const MergeRule& rule : rules) {
    Parts& made = parts_[rule.merged];
    if (made.length != 0 || !usable(rule)) continue;
    if (crosses_inside(rule.left, rule.right)) continue;
    made = {rule.left, rule.right, rule.rank + 1, static_cast<uint32_t>(tokens[rule.merged].size())};
  }
  for (const MergeRule& rule : rules) {
    if (usable(rule) && std::max(parts_[rule.left].time, parts_[rule.right].time) > rule.rank) return false;
  }
  return true;
}

// Whether a merge crosses the border of the two before the last merge of either.
bool LongestMatchEncoder::crosses_inside(TokenId left, TokenId right) const {
  uint32_t left_until = kNoRank, right_until = kNoRank;
  for (;;) {
    const Parts& last = parts_[left];
    const Parts& first = parts_[right];
    if (last.time > first.time) {
      left_until = last.time - 1;
      left = last.right;
    } else if (first.time > 0) {
      right_until = first.time - 1;
      right = first.left;
    } else {
      return false;
    }
    const uint32_t rank = merges_.find(left, right).rank;
    // Of equal ranks the leftmost merges first.
    if (rank < left_until && rank <= right_until) return true;
  }
}

bool LongestMatchEncoder::stay_apart(TokenId left, TokenId right) const {
  return merges_.find(left, right).rank == kNoRank && !crosses_inside(left, right);
}

bool LongestMatchEncoder::stay_apart(TokenId left, TokenId right, LongestMatchScratch& scratch) const {
  const uint64_t pair = uint64_t{left} << 32 | right;
  uint64_t& known = scratch.pairs[spread(pair) % LongestMatchScratch::kPairs];
  // Ids are below 2^31, so the highest bit is free for the answer.
  if ((known << 1) == (pair << 1)) return known >> 63 != 0;
  const bool apart = stay_apart(left, right);
  known = pair | uint64_t{apart} << 63;
  return apart;
}

bool LongestMatchEncoder::encode(std::string_view piece, LongestMatchScratch& scratch,
                                 std::vector<TokenId>& out) const {
  if (scratch.pairs.empty()) scratch.pairs.assign(LongestMatchScratch::kPairs, ~uint64_t{0} >> 1);
  const size_t first = out.size();
  scratch.dead.clear();
  const auto dead = [&](size_t at) { return at < scratch.dead.size() && scratch.dead[at]; };
  size_t at = 0;
  for (TokenId token = trie_->longest_at(piece, 0); token != kNoToken;) {
    const size_t end = at + parts_[token].length;
    const bool fits = !dead(end) && (out.size() == first || stay_apart(out.back(), token, scratch));
    if (fits) {
      out.push_back(token);
      at = end;
      if (at == piece.size()) return true;
      token = trie_->longest_at(piece, at);
    } else if (shorter_[token] != kNoToken) {
      token = shorter_[token];
    } else {
      if (scratch.dead.empty()) scratch.dead.resize(piece.size() + 1);
      scratch.dead[at] = true;
      if (out.size() == first) break;
      token = out.back();
      out.pop_back();
      at -= parts_[token].length;
    }
  }
  out.resize(first);
  return false;
}

}  // namespace pyllm::tokenizers
