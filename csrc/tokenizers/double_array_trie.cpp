#include "double_array_trie.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kBlock = 256;
// Free slots that are tried for a node before it opens a new block: keeps building linear where the array is
// dense.
constexpr int kMostTrials = 64;
constexpr size_t kLongestSought = 2048;
constexpr uint32_t kNone = UINT32_MAX;
// In `check` of a slot that is taken by the root.
constexpr uint32_t kTaken = UINT32_MAX - 1;

}  // namespace

class DoubleArrayBuilder {
 public:
  DoubleArrayBuilder(const std::vector<DoubleArrayTrie::Entry>& entries,
                     std::vector<DoubleArrayTrie::Unit>& units)
      : entries_(entries), units_(units) {
    add_block();
    take(DoubleArrayTrie::kRoot, kTaken);
    std::vector<Range> pending{{DoubleArrayTrie::kRoot, 0, entries.size(), 0}};
    while (!pending.empty()) {
      const Range range = pending.back();
      pending.pop_back();
      place_children(range, pending);
    }
  }

 private:
  // The entries of a node: those with the same first `depth` bytes.
  struct Range {
    uint32_t node;
    size_t begin, end;
    size_t depth;
  };

  void place_children(Range range, std::vector<Range>& pending) {
    if (entries_[range.begin].first.size() == range.depth) {
      units_[range.node].value = entries_[range.begin].second;
      if (++range.begin == range.end) return;
    }
    bytes_.clear();
    starts_.clear();
    for (size_t i = range.begin; i < range.end; ++i) {
      const auto byte = static_cast<unsigned char>(entries_[i].first[range.depth]);
      if (bytes_.empty() || bytes_.back() != byte) {
        bytes_.push_back(byte);
        starts_.push_back(i);
      }
    }
    const uint32_t base = find_base();
    units_[range.node].base = base;
    for (const unsigned char byte : bytes_) take(base ^ byte, range.node);
    for (size_t i = 0; i < bytes_.size(); ++i) {
      const size_t end = i + 1 < starts_.size() ? starts_[i + 1] : range.end;
      pending.push_back({base ^ bytes_[i], starts_[i], end, range.depth + 1});
    }
  }

  uint32_t find_base() {
    int trials = 0;
    for (uint32_t slot = first_free_; slot != kNone && trials < kMostTrials;
         slot = next_free_[slot], ++trials) {
      const uint32_t base = slot ^ bytes_[0];
      const bool fits = std::all_of(bytes_.begin(), bytes_.end(),
                                    [&](unsigned char byte) { return units_[base ^ byte].check == kNone; });
      if (fits) return base;
    }
    return add_block();
  }

  // New blocks go to the front of the list of free slots: the old ones are nearly full.
  uint32_t add_block() {
    const auto begin = static_cast<uint32_t>(units_.size());
    units_.resize(units_.size() + kBlock);
    next_free_.resize(units_.size());
    previous_free_.resize(units_.size());
    for (uint32_t slot = begin; slot < begin + kBlock; ++slot) {
      previous_free_[slot] = slot == begin ? kNone : slot - 1;
      next_free_[slot] = slot + 1 == begin + kBlock ? first_free_ : slot + 1;
    }
    if (first_free_ != kNone) previous_free_[first_free_] = begin + kBlock - 1;
    first_free_ = begin;
    return begin;
  }

  void take(uint32_t slot, uint32_t parent) {
    units_[slot].check = parent;
    const uint32_t next = next_free_[slot], previous = previous_free_[slot];
    if (next != kNone) previous_free_[next] = previous;
    if (previous != kNone) {
      next_free_[previous] = next;
    } else {
      first_free_ = next;
    }
  }

  const std::vector<DoubleArrayTrie::Entry>& entries_;
  std::vector<DoubleArrayTrie::Unit>& units_;
  std::vector<uint32_t> next_free_, previous_free_;
  uint32_t first_free_ = kNone;
  std::vector<unsigned char> bytes_;
  std::vector<size_t> starts_;
};

void check_sought(std::string_view key, const char* what) {
  if (key.size() <= kLongestSought) return;
  throw std::invalid_argument(std::string(what) + ": expected at most " + std::to_string(kLongestSought) +
                              " bytes, got " + std::to_string(key.size()));
}

DoubleArrayTrie::DoubleArrayTrie(std::vector<Entry> entries) {
  std::sort(entries.begin(), entries.end());
  const auto same = [](const Entry& a, const Entry& b) { return a.first == b.first; };
  entries.erase(std::unique(entries.begin(), entries.end(), same), entries.end());
  if (!entries.empty() && entries[0].first.empty()) entries.erase(entries.begin());
  std::vector<Unit> units;
  if (entries.empty()) {
    units.resize(kBlock);
  } else {
    DoubleArrayBuilder(entries, units);
  }
  units_ = FrozenArray<Unit>(std::move(units));
}

DoubleArrayTrie::DoubleArrayTrie(const SectionReader& file, const std::string& name, uint32_t end)
    : units_(file.array<Unit>(name)) {
  if (units_.empty() || units_.size() % kBlock != 0) file.fail(name, "expected whole blocks");
  size_t strange = 0;
  // A step changes the last eight bits of `base` at most, so it stays in its block.
  for (const Unit& unit : units_) {
    strange += unit.base >= units_.size() || (unit.value != kNoValue && unit.value >= end);
  }
  // Each node knows its one parent, so there is one way to it if the root has none.
  if (strange != 0 || units_[kRoot].check < units_.size()) file.fail(name, "a node or value outside");
}

std::pair<uint32_t, size_t> DoubleArrayTrie::longest_at(std::string_view text, size_t at) const {
  std::pair<uint32_t, size_t> best{kNoValue, 0};
  uint32_t node = kRoot;
  for (size_t end = at; end < text.size() && step(node, text[end]);) {
    ++end;
    if (value(node) != kNoValue) best = {value(node), end - at};
  }
  return best;
}

}  // namespace pyllm::tokenizers
