// A small number for every code point.
//
//   runs   [0 41: A) [41 5B: B) [5B ...)         as the generated .inc files list them: first << 8 | number
//   blocks  code point >> 7  ->  which of the different blocks of 128 numbers
//   numbers block * 128 + code point % 128       equal blocks are stored once, so most of the planes cost
//   nothing
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "utf8.h"

namespace pyllm::tokenizers {

class TwoStageTable {
 public:
  // Runs are sorted; each lasts until the next begins, the first starts at 0.
  explicit TwoStageTable(std::span<const uint32_t> runs);

  // 0 for bytes that are no character.
  uint8_t operator[](uint32_t code_point) const {
    if (code_point >= kInvalidByte) return 0;
    return numbers_[size_t{blocks_[code_point >> kBlockBits]} << kBlockBits | code_point % kBlockSize];
  }

 private:
  static constexpr uint32_t kBlockBits = 7;
  static constexpr uint32_t kBlockSize = 1u << kBlockBits;

  std::vector<uint16_t> blocks_;
  std::vector<uint8_t> numbers_;
};

}  // namespace pyllm::tokenizers
