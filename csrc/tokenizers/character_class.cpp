#include "character_class.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kRuns[] = {
#include "unicode/character_classes.inc"
};

}  // namespace

CharacterTable::CharacterTable() {
  std::map<std::string, uint16_t> seen;
  size_t run = 0;
  for (uint32_t block = 0; block < std::size(blocks_); ++block) {
    std::string content;
    for (uint32_t code_point = block * kBlockSize; content.size() < kBlockSize; ++code_point) {
      while (run + 1 < std::size(kRuns) && kRuns[run + 1] >> 8 <= code_point) ++run;
      content.push_back(static_cast<char>(kRuns[run] & 0xFF));
    }
    const auto [found, added] = seen.try_emplace(content, static_cast<uint16_t>(seen.size()));
    if (added) entries_ += content;
    blocks_[block] = found->second;
  }
}

const CharacterTable& CharacterTable::instance() {
  static const CharacterTable table;
  return table;
}

}  // namespace pyllm::tokenizers
