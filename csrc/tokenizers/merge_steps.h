// The merges of one piece one by one, for a reader who wants to see them; merger.h is what encodes.
//
//   l o w e r     e+r, rank 12 -> l o w er     l+o, rank 40 -> lo w er     lo+w, rank 41 -> low er
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_text.h"
#include "merge_table.h"

namespace pyllm::tokenizers {

// The bytes [begin, cut) and [cut, end) of the piece become one symbol.
struct MergeStep {
  uint32_t rank;
  size_t begin, cut, end;
};

// What is merged: a token, or kNoToken for what never merges, and the bytes of the piece that it stands for.
struct PieceSymbol {
  TokenId id;
  Span span;
};

// Appends the steps by the plain definition: again and again the pair of the lowest rank, of equal ranks the
// leftmost. Quadratic in the symbols.
void append_merge_steps(const MergeTable& table, std::vector<PieceSymbol> symbols,
                        std::vector<MergeStep>& steps);

}  // namespace pyllm::tokenizers
