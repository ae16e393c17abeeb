#include "short_merger.h"

#include <algorithm>

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kNoPair = UINT32_MAX;
constexpr unsigned kPlaceBits = 5;

unsigned log2_of(size_t power) { return static_cast<unsigned>(std::countr_zero(power)); }

}  // namespace

ShortMerger::ShortMerger(const std::vector<MergeRule>& rules)
    : slots_(table_capacity(rules.size())), filter_(std::max<size_t>(std::bit_ceil(rules.size()) / 8, 1)) {
  slot_shift_ = 64 - log2_of(slots_.size());
  filter_shift_ = 64 - log2_of(filter_.size() * 64);
  for (const MergeRule& rule : rules) {
    const uint64_t h = hash(rule.left, rule.right);
    size_t at = h >> slot_shift_;
    while (slots_[at].rank != kNoRank && !(slots_[at].left == rule.left && slots_[at].right == rule.right)) {
      at = (at + 1) & (slots_.size() - 1);
    }
    slots_[at] = {rule.left, rule.right, rule.merged, rule.rank};
    filter_[bit_of(h) >> 6] |= uint64_t{1} << (bit_of(h) & 63);
  }
}

size_t ShortMerger::merge(TokenId* symbols, size_t count) const {
  if (count < 2) return count;
  TokenId merged[kMostSymbols];
  uint32_t next[kMostSymbols];
  const auto look = [&](uint32_t at, uint32_t after) {
    const uint32_t rank = find(symbols[at], symbols[after], merged[at]);
    next[at] = rank == kNoRank ? kNoPair : rank << kPlaceBits | at;
  };
  for (uint32_t i = 0; i + 1 < count; ++i) look(i, i + 1);
  next[count - 1] = kNoPair;
  uint32_t alive = UINT32_MAX >> (kMostSymbols - count);
  for (;;) {
    uint32_t least = kNoPair;
    for (size_t i = 0; i < count; ++i) least = std::min(least, next[i]);
    if (least == kNoPair) break;
    const uint32_t at = least % kMostSymbols;
    symbols[at] = merged[at];
    const uint32_t before = alive & ((uint32_t{1} << at) - 1);
    uint32_t behind = alive & ~before & ~(uint32_t{1} << at);
    const auto absorbed = static_cast<uint32_t>(std::countr_zero(behind));
    next[absorbed] = kNoPair;
    alive &= ~(uint32_t{1} << absorbed);
    behind &= behind - 1;
    next[at] = kNoPair;
    if (behind != 0) look(at, static_cast<uint32_t>(std::countr_zero(behind)));
    if (before != 0) look(static_cast<uint32_t>(std::bit_width(before)) - 1, at);
  }
  size_t left = 0;
  for (; alive != 0; alive &= alive - 1) symbols[left++] = symbols[std::countr_zero(alive)];
  return left;
}

}  // namespace pyllm::tokenizers
