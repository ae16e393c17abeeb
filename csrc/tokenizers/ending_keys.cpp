#include "ending_keys.h"

namespace pyllm::tokenizers {

// A node's links lead to nodes nearer to the root, so they are made level by level.
EndingKeys::EndingKeys(const DoubleArrayTrie& trie) : nodes_(trie.size()) {
  std::vector<uint32_t> level{DoubleArrayTrie::kRoot}, next;
  for (uint32_t depth = 1; !level.empty(); ++depth, level.swap(next), next.clear()) {
    for (const uint32_t parent : level) {
      for (int byte = 0; byte < 256; ++byte) {
        uint32_t child = parent;
        if (!trie.step(child, static_cast<char>(byte))) continue;
        Node& node = nodes_[child];
        node.depth = depth;
        if (depth > 1) node.failure = step(trie, nodes_[parent].failure, static_cast<char>(byte));
        const bool is_key = trie.value(node.failure) != DoubleArrayTrie::kNoValue;
        node.output = is_key ? node.failure : nodes_[node.failure].output;
        next.push_back(child);
      }
    }
  }
}

}  // namespace pyllm::tokenizers
