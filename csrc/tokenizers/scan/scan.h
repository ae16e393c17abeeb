// Cuts a text into pieces many at a time: what pretokenizer.h defines, faster.
//
//   text     def f(x):⏎    return x + 1⏎            64 bytes, from the start of a piece
//   masks    one bit a byte for letters, digits, spaces, line ends, the rest (windows.h)
//   starts   x..xx.xx.x    a few shifts and ands: where pieces begin, as far as these bytes tell
//
// The next window begins where the last piece of this one does, so no state goes from one to the next. What a
// window cannot tell (characters beyond ASCII, whitespace that goes on behind it, words longer than it) is
// left to the scanner of pretokenizer.h, one piece at a time.
#pragma once

#include <cstddef>
#include <string_view>

#include "../pretokenizer.h"

namespace pyllm::tokenizers {

// Writes the ends of successive pieces, the first of which starts at `begin` (begin < text.size()), and
// returns how many: at least one, at most `capacity`, which is at least kScanCapacity.
using ScanPieces = size_t (*)(std::string_view text, size_t begin, NextPiece next, size_t* ends,
                              size_t capacity);

inline constexpr size_t kScanCapacity = 64;

// The fastest for the grammar of `next` at the instruction-set level that is active.
ScanPieces find_scan(NextPiece next);

// The scanners of one level.
struct GrammarScans {
  ScanPieces gpt2, digits_gpt2, cl100k, llama3, qwen2, o200k;
};

}  // namespace pyllm::tokenizers
