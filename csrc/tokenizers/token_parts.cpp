#include "token_parts.h"

#include <bit>

#include "hash.h"
#include "merge_order.h"

namespace pyllm::tokenizers {
namespace {

// Those that no later rule has replaced. A few at a time, while the table brings the next ones.
std::vector<MergeRule> standing_rules(const std::vector<MergeRule>& rules, const MergeTable& merges) {
  constexpr size_t kAhead = 32;
  std::vector<MergeRule> standing;
  standing.reserve(rules.size());
  for (size_t i = 0; i < rules.size(); ++i) {
    if (i + kAhead < rules.size()) merges.prefetch(rules[i + kAhead].left, rules[i + kAhead].right);
    if (merges.find(rules[i].left, rules[i].right).rank == rules[i].rank) standing.push_back(rules[i]);
  }
  return standing;
}

}  // namespace

TokenParts::TokenParts(const TokenBytes& tokens, const std::array<TokenId, 256>& byte_tokens)
    : parts_(tokens.size()),
      slots_(table_capacity(tokens.size())),
      filter_(std::bit_ceil(tokens.size()) * 8 / 64 + 1),
      mask_(slots_.size() - 1),
      filter_mask_(std::bit_floor(filter_.size()) - 1) {
  for (size_t i = 0; i < slots_.size(); ++i) slots_[i] = kNoToken;
  for (const TokenId id : byte_tokens) {
    if (id != kNoToken) parts_[id].length = 1;
  }
}

std::optional<TokenParts> TokenParts::prove(const TokenBytes& tokens,
                                            const std::array<TokenId, 256>& byte_tokens,
                                            const std::vector<MergeRule>& rules, const MergeTable& merges) {
  // Each round finds the followers of what the one before found.
  for (MergeOrder order(standing_rules(rules, merges));;) {
    TokenParts parts(tokens, byte_tokens);
    const std::vector<MergeRule> early = parts.learn(tokens, order);
    if (early.empty()) return parts;
    if (!order.move_behind_parts(early, parts)) return std::nullopt;
  }
}

void TokenParts::make(const MergeRule& rule, uint32_t time, size_t length) {
  parts_[rule.merged] = {rule.left, rule.right, time, static_cast<uint32_t>(length)};
  const uint64_t hash = mix(uint64_t{rule.left} << 32 | rule.right);
  filter_[hash >> 6 & filter_mask_] |= uint64_t{1} << (hash & 63);
  size_t at = hash >> 32 & mask_;
  while (slots_[at] != kNoToken) at = (at + 1) & mask_;
  slots_[at] = rule.merged;
}

// A rule makes its token if its parts are made and nothing crosses between them before. A rule whose parts
// cross never sees them side by side. What is left was too early for its parts (or spells a token that is
// made already, which cannot be: its bytes have one encoding).
std::vector<MergeRule> TokenParts::learn(const TokenBytes& tokens, const MergeOrder& order) {
  for (size_t i = 0; i < order.size(); ++i) {
    const MergeRule& rule = order[i];
    if (reachable(rule.merged) || !usable(rule) || cross(rule.left, rule.right)) continue;
    make(rule, static_cast<uint32_t>(i + 1), tokens[rule.merged].size());
  }
  std::vector<MergeRule> early;
  for (size_t i = 0; i < order.size(); ++i) {
    const MergeRule& rule = order[i];
    const Parts& made = parts_[rule.merged];
    const bool maker = made.left == rule.left && made.right == rule.right;
    if (!maker && usable(rule) && !cross(rule.left, rule.right)) early.push_back(rule);
  }
  return early;
}

std::vector<MergeRule> TokenParts::used_rules(const MergeTable& merges) const {
  std::vector<MergeRule> used;
  for (TokenId id = 0; id < parts_.size(); ++id) {
    const Parts& parts = parts_[id];
    if (parts.time == 0) continue;
    used.push_back({parts.left, parts.right, id, merges.find(parts.left, parts.right).rank});
  }
  return used;
}

// Whether a merge crosses the border of the two before the last merge of either.
bool TokenParts::cross(TokenId left, TokenId right) const {
  uint32_t left_until = UINT32_MAX, right_until = UINT32_MAX;
  for (;;) {
    const Parts& last = parts_[left];
    const Parts& first = parts_[right];
    if ((last.time | first.time) == 0) return false;
    if (last.time > first.time) {
      left_until = last.time;
      left = last.right;
    } else {
      right_until = first.time;
      right = first.left;
    }
    const TokenId merged = find(left, right);
    if (merged == kNoToken) continue;
    const uint32_t time = parts_[merged].time;
    // Of equal times the leftmost merges first.
    if (time < left_until && time <= right_until) return true;
  }
}

}  // namespace pyllm::tokenizers
