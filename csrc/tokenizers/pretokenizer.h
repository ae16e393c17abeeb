// Pretokenizers: how a text is cut into the pieces that merges never cross. One hand-written scanner per
// grammar, each equal to a published regular expression, linear in the text and without recursion.
//
//   text     I'll see 12 — maybe⏎
//   cl100k   I | 'll | _see | _ | 12 | _— | _maybe | ⏎       _ is a space
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace pyllm::tokenizers {

// End of the piece that starts at `begin` (begin < text.size()); always greater than begin.
using NextPiece = size_t (*)(std::string_view text, size_t begin);

// The scanner of a grammar: gpt2, cl100k, llama3, qwen2, o200k, digits_gpt2 or none. Throws
// std::invalid_argument.
NextPiece find_pretokenizer(std::string_view grammar);

// Calls visit(piece) for every piece of the text, left to right; pieces join to the text.
template <typename Visit>
void for_each_piece(NextPiece next_piece, std::string_view text, Visit&& visit) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = next_piece(text, begin);
    visit(text.substr(begin, end - begin));
    begin = end;
  }
}

// The first line end at or behind `from` where a piece of the text ends, whatever comes before it and behind
// it (as far as such places can be told from a few bytes); the size of the text if there is none.
size_t find_safe_cut(NextPiece next_piece, std::string_view text, size_t from);

// The same with more places, in running text every few words, not only at line ends.
size_t find_border(NextPiece next_piece, std::string_view text, size_t from);

// The last such line end behind `from`, 0 if there is none.
size_t find_last_safe_cut(NextPiece next_piece, std::string_view text, size_t from);

// Cuts the text into chunks of at least `size` bytes (but for the last) whose pieces are the pieces of the
// whole text, so that chunks can be scanned by different threads. A text without a safe place stays whole.
std::vector<std::string_view> split_safely(NextPiece next_piece, std::string_view text, size_t size);

}  // namespace pyllm::tokenizers
