// What 64 bytes are, one bit a byte.
#pragma once

#include <cstdint>

namespace pyllm::tokenizers {

struct ByteMasks {
  uint64_t upper, lower, digit;
  uint64_t space;    // ' '
  uint64_t blank;    // the rest of ASCII whitespace but for line ends: \t \v \f
  uint64_t newline;  // \r \n
  uint64_t slash, apostrophe;
  uint64_t high;  // not ASCII
};

}  // namespace pyllm::tokenizers
