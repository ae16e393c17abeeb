#include "merge_order.h"

#include <algorithm>
#include <tuple>

#include "token_parts.h"

namespace pyllm::tokenizers {

MergeOrder::MergeOrder(const std::vector<MergeRule>& rules) {
  places_.reserve(rules.size());
  for (const MergeRule& rule : rules) places_.push_back({rule.rank, 0, rule.merged, rule});
}

const MergeOrder::Place& MergeOrder::maker_of(TokenId id, const TokenParts& parts) const {
  return places_[parts.time(id) - 1];
}

bool MergeOrder::move(const MergeRule& rule, const TokenParts& parts) {
  if (rule.left == rule.right) return false;
  const bool left_is_later = parts.time(rule.left) > parts.time(rule.right);
  const auto [later, other] =
      left_is_later ? std::pair(rule.left, rule.right) : std::pair(rule.right, rule.left);
  const Place& maker = maker_of(later, parts);
  const bool begins_root = left_is_later && parts.left(maker.root) == other;
  const bool made_of_root = parts.time(other) > 0 && maker_of(other, parts).root == maker.root;
  const bool same_side =
      taken_from_left_.insert({{maker.root, other}, left_is_later}).first->second == left_is_later;
  if (begins_root || made_of_root || !same_side) return false;
  const Place place{maker.root_rank, maker.depth + 1, maker.root, rule};
  return moved_.insert({{rule.left, rule.right}, place}).second;
}

bool MergeOrder::move_behind_parts(const std::vector<MergeRule>& early, const TokenParts& parts) {
  for (const MergeRule& rule : early) {
    if (!move(rule, parts)) return false;
  }
  for (Place& place : places_) {
    const auto moved = moved_.find({place.rule.left, place.rule.right});
    if (moved != moved_.end()) place = moved->second;
  }
  std::stable_sort(places_.begin(), places_.end(), [](const Place& a, const Place& b) {
    return std::tie(a.root_rank, a.depth, a.rule.rank) < std::tie(b.root_rank, b.depth, b.rule.rank);
  });
  return true;
}

}  // namespace pyllm::tokenizers
