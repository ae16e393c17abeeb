#include "merge_table.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <span>

#include "huge_array.h"
#include "threads.h"

namespace pyllm::tokenizers {

// A few rules at a time: all their slots are asked for before the first is looked at.
MergeTable::MergeTable(const std::vector<MergeRule>& rules) {
  constexpr size_t kAhead = 32;
  HugeArray<Slot> slots(table_capacity(rules.size()));
  for (size_t begin = 0; begin < rules.size(); begin += kAhead) {
    const std::span<const MergeRule> some(rules.data() + begin, std::min(kAhead, rules.size() - begin));
    for (const MergeRule& rule : some) {
      __builtin_prefetch(&slots[mix(key(rule.left, rule.right)) & (slots.size() - 1)], 1);
    }
    for (const MergeRule& rule : some) {
      const uint64_t pair = key(rule.left, rule.right);
      slots[locate(slots, pair)] = {pair, {rule.rank, rule.merged}};
    }
  }
  slots_ = FrozenArray<Slot>(std::move(slots));
}

MergeTable::MergeTable(const SectionReader& file, const std::string& name, const TokenBytes& tokens)
    : slots_(file.array<Slot>(name)) {
  if (!std::has_single_bit(slots_.size())) file.fail(name, "expected a power of two of slots");
  const auto sound = [&](const Slot& slot) {
    const uint64_t left = slot.key >> 32, right = slot.key & UINT32_MAX, merged = slot.merge.merged;
    if (std::max({left, right, merged}) >= tokens.size()) return false;
    const auto length = [&](uint64_t id) { return tokens.length(static_cast<TokenId>(id)); };
    return length(left) + length(right) == length(merged);
  };
  constexpr size_t kBlock = 1 << 15;
  const size_t blocks = (slots_.size() + kBlock - 1) / kBlock;
  std::atomic<size_t> free = 0, strange = 0;
  parallel_for_each(blocks, blocks > 2 ? 2 : 1, [&](size_t, size_t block) {
    size_t free_here = 0, strange_here = 0;
    const size_t end = std::min(slots_.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i) {
      const Slot& slot = slots_[i];
      const bool empty =
          slot.key == UINT64_MAX && slot.merge.merged == kNoToken && slot.merge.rank == kNoRank;
      free_here += empty;
      strange_here += !empty && !sound(slot);
    }
    free += free_here;
    strange += strange_here;
  });
  if (free == 0 || strange != 0) file.fail(name, "a merge that joins no tokens, or no free slot");
}

std::vector<MergeRule> MergeTable::rules() const {
  std::vector<MergeRule> rules;
  for (const Slot& slot : slots_) {
    if (slot.key == UINT64_MAX) continue;
    const auto left = static_cast<TokenId>(slot.key >> 32), right = static_cast<TokenId>(slot.key);
    rules.push_back({left, right, slot.merge.merged, slot.merge.rank});
  }
  return rules;
}

}  // namespace pyllm::tokenizers
