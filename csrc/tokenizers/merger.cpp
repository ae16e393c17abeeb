#include "merger.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

namespace pyllm::tokenizers {
namespace {

// Up to here a scan for the minimum beats a heap; beyond it would be quadratic.
constexpr size_t kShortPiece = 64;
constexpr size_t kKeptNodes = 1 << 16;
constexpr uint32_t kEnd = UINT32_MAX;

}  // namespace

void Merger::merge(const MergeTable& table, std::vector<TokenId>& symbols) {
  if (symbols.size() < 2) return;
  if (symbols.size() <= kShortPiece) {
    merge_short(table, symbols);
  } else {
    merge_long(table, symbols);
  }
}

void Merger::trim() {
  if (nodes_.capacity() > kKeptNodes) std::vector<Node>().swap(nodes_);
  if (heap_.capacity() > kKeptNodes) std::vector<uint64_t>().swap(heap_);
}

void Merger::merge_short(const MergeTable& table, std::vector<TokenId>& symbols) {
  merges_.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) merges_.push_back(table.find(symbols[i], symbols[i + 1]));
  while (!merges_.empty()) {
    const auto best = std::min_element(merges_.begin(), merges_.end(),
                                       [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) return;
    const size_t at = static_cast<size_t>(best - merges_.begin());
    symbols[at] = best->merged;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    merges_.erase(best);
    if (at > 0) merges_[at - 1] = table.find(symbols[at - 1], symbols[at]);
    if (at + 1 < symbols.size()) merges_[at] = table.find(symbols[at], symbols[at + 1]);
  }
}

// Looks up the merge with the next node; true if the heap got a candidate at its end.
bool Merger::rank_node(const MergeTable& table, uint32_t at) {
  Node& node = nodes_[at];
  const Merge merge = node.next == kEnd ? Merge{} : table.find(node.id, nodes_[node.next].id);
  node.rank = merge.rank;
  node.merged = merge.merged;
  if (merge.rank == kNoRank) return false;
  heap_.push_back(uint64_t{merge.rank} << 32 | at);
  return true;
}

void Merger::rank_again(const MergeTable& table, uint32_t at) {
  if (rank_node(table, at)) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

void Merger::join_with_next(const MergeTable& table, uint32_t at) {
  Node& node = nodes_[at];
  Node& absorbed = nodes_[node.next];
  node.id = node.merged;
  node.next = absorbed.next;
  absorbed.rank = kNoRank;
  if (node.next != kEnd) nodes_[node.next].previous = at;
  rank_again(table, at);
  if (node.previous != kEnd) rank_again(table, node.previous);
}

// Every merge pushes at most two candidates. One that went stale no longer agrees with its node and is
// dropped.
void Merger::merge_long(const MergeTable& table, std::vector<TokenId>& symbols) {
  if (symbols.size() >= kEnd) throw std::length_error("a piece of text holds 2^32 bytes or more");
  const uint32_t count = static_cast<uint32_t>(symbols.size());
  nodes_.resize(count);
  heap_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    nodes_[i] = {symbols[i], kNoRank, kNoToken, i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};
  }
  for (uint32_t i = 0; i < count; ++i) rank_node(table, i);
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  while (!heap_.empty()) {
    const uint64_t candidate = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
    const uint32_t at = static_cast<uint32_t>(candidate);
    if (nodes_[at].rank == candidate >> 32) join_with_next(table, at);
  }
  symbols.clear();
  for (uint32_t at = 0; at != kEnd; at = nodes_[at].next) symbols.push_back(nodes_[at].id);
}

}  // namespace pyllm::tokenizers
