#include "two_stage_table.h"

#include <map>
#include <string>

namespace pyllm::tokenizers {

TwoStageTable::TwoStageTable(std::span<const uint32_t> runs) {
  std::map<std::string, uint16_t> seen;
  size_t run = 0;
  for (uint32_t first = 0; first < kInvalidByte; first += kBlockSize) {
    std::string block;
    for (uint32_t code_point = first; block.size() < kBlockSize; ++code_point) {
      while (run + 1 < runs.size() && runs[run + 1] >> 8 <= code_point) ++run;
      block.push_back(static_cast<char>(runs[run]));
    }
    const auto [found, added] = seen.try_emplace(block, static_cast<uint16_t>(seen.size()));
    if (added) numbers_.insert(numbers_.end(), block.begin(), block.end());
    blocks_.push_back(found->second);
  }
}

}  // namespace pyllm::tokenizers
