// Which two characters may come to stand in one token: between all others a text falls apart before anything
// is merged.
//
//   我 们 在 家 里        of these 我们 and 家里 are joined by some merge
//   [我 们][在][家 里]     most characters of Chinese are tokens of their own at once
//
// A bit by hash of the two, so a few pairs are held for joined that are not; merging then finds nothing.
#pragma once

#include <cstdint>
#include <string>

#include "hash.h"
#include "merge_table.h"
#include "sections.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class JoinedCharacters {
 public:
  JoinedCharacters(const MergeTable& merges, const TokenBytes& tokens);

  void store(SectionWriter& file, const std::string& name) const { file.array(name, bits_); }
  // Throws std::invalid_argument.
  JoinedCharacters(const SectionReader& file, const std::string& name);

  bool may_join(uint32_t before, uint32_t after) const {
    const uint64_t hash = hash_of(before, after);
    return (bits_[hash >> 6 & (bits_.size() - 1)] >> (hash & 63) & 1) != 0;
  }

 private:
  static uint64_t hash_of(uint32_t before, uint32_t after) { return mix(uint64_t{before} << 32 | after); }

  FrozenArray<uint64_t> bits_;  // a power of two of them
};

}  // namespace pyllm::tokenizers
