// A set of byte strings to walk through, one byte at a time.
//
//   node n, byte c:   next = base[n] ^ c      is a child of n if check[next] == n
//
// All nodes share one array: each takes the first base whose slots are free for all its children, so one step
// costs one load and one comparison, wherever in the trie it is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "sections.h"

namespace pyllm::tokenizers {

// Throws std::invalid_argument, naming `what`, for a key that is too long to be looked for at every place of
// a text: a text would cost its length times that of the key.
void check_sought(std::string_view key, const char* what);

class DoubleArrayTrie {
 public:
  static constexpr uint32_t kNoValue = UINT32_MAX;
  static constexpr uint32_t kRoot = 0;

  using Entry = std::pair<std::string_view, uint32_t>;

  // Empty keys are left out; of equal keys the one with the smallest value stays.
  explicit DoubleArrayTrie(std::vector<Entry> entries);

  void store(SectionWriter& file, const std::string& name) const { file.array(name, units_); }
  // Throws std::invalid_argument where a step would leave the array, or a value is `end` or more.
  DoubleArrayTrie(const SectionReader& file, const std::string& name, uint32_t end);

  // Goes to the child; false if there is none, and then the node stays.
  bool step(uint32_t& node, char byte) const {
    const uint32_t next = units_[node].base ^ static_cast<unsigned char>(byte);
    if (units_[next].check != node) return false;
    node = next;
    return true;
  }

  // Nodes are numbered below this.
  size_t size() const { return units_.size(); }

  size_t count_values() const {
    return static_cast<size_t>(
        std::count_if(units_.begin(), units_.end(), [](const Unit& unit) { return unit.value != kNoValue; }));
  }

  // Of the key that ends at the node.
  uint32_t value(uint32_t node) const { return units_[node].value; }

  // The node of a prefix; false if no key starts with it.
  bool walk(uint32_t& node, std::string_view bytes) const {
    for (const char byte : bytes) {
      if (!step(node, byte)) return false;
    }
    return true;
  }

  // The longest key that starts at text[at], as its value and length; {kNoValue, 0} if there is none.
  std::pair<uint32_t, size_t> longest_at(std::string_view text, size_t at) const;

 private:
  struct Unit {
    uint32_t base = 0;
    uint32_t check = UINT32_MAX;
    uint32_t value = kNoValue;
  };

  friend class DoubleArrayBuilder;
  FrozenArray<Unit> units_;
};

}  // namespace pyllm::tokenizers
