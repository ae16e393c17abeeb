#include "charsmap.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kIsLeaf = uint32_t{1} << 31;
// No rule is longer. A damaged trie may lead in circles, and every place of a text starts a walk.
constexpr size_t kLongestRule = 1024;

bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t leaf_value(uint32_t unit) { return unit & ~kIsLeaf; }
// A leaf carries its mark in the label, so it never equals a byte.
uint32_t label(uint32_t unit) { return unit & (kIsLeaf | 0xFF); }
uint32_t offset(uint32_t unit) { return unit >> 10 << ((unit & 1 << 9) >> 6); }

}  // namespace

Charsmap::Charsmap(std::string_view blob) {
  if (blob.empty()) return;
  const auto wrong = [](const char* what) {
    return std::invalid_argument(std::string("precompiled_charsmap: ") + what);
  };
  uint32_t size = 0;
  if (blob.size() < sizeof(size)) throw wrong("it is shorter than its header");
  for (size_t i = 0; i < sizeof(size); ++i) {
    size |= uint32_t{static_cast<unsigned char>(blob[i])} << 8 * i;
  }
  blob.remove_prefix(sizeof(size));
  if (size > blob.size() || size % sizeof(uint32_t) != 0 || size == 0) {
    throw wrong("the size of its trie does not fit");
  }
  for (size_t at = 0; at < size; at += sizeof(uint32_t)) {
    uint32_t unit = 0;
    for (size_t i = 0; i < sizeof(unit); ++i) {
      unit |= uint32_t{static_cast<unsigned char>(blob[at + i])} << 8 * i;
    }
    units_.push_back(unit);
  }
  texts_ = blob.substr(size);
  if (!texts_.empty() && texts_.back() != '\0') throw wrong("its last text does not end");
}

Charsmap::Match Charsmap::find(std::string_view text, bool shortest) const {
  Match best;
  if (units_.empty()) return best;
  uint32_t node = offset(units_[0]);
  for (size_t at = 0; at < std::min(text.size(), kLongestRule); ++at) {
    const uint32_t byte = static_cast<unsigned char>(text[at]);
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size() || leaf_value(units_[node]) >= texts_.size()) break;
    best = {at + 1, texts_.c_str() + leaf_value(units_[node])};
    if (shortest) break;
  }
  return best;
}

// Walks all keys: none may hold a space but at its start, nor end in such a character after others.
bool Charsmap::is_local() const {
  if (units_.empty()) return true;
  struct Node {
    uint32_t index;
    bool is_root;
  };
  std::vector<bool> seen(units_.size());
  std::vector<Node> pending{{0, true}};
  while (!pending.empty()) {
    const Node node = pending.back();
    pending.pop_back();
    const uint32_t base = node.index ^ offset(units_[node.index]);
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t child = base ^ byte;
      if (child >= units_.size() || label(units_[child]) != byte || seen[child]) continue;
      if (!node.is_root && (byte == ' ' || (has_leaf(units_[child]) && byte > ' ' && byte < 0x7F)))
        return false;
      seen[child] = true;
      pending.push_back({child, false});
    }
  }
  return true;
}

}  // namespace pyllm::tokenizers
