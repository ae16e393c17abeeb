#include "merge_steps.h"

namespace pyllm::tokenizers {

void append_merge_steps(const MergeTable& table, std::vector<PieceSymbol> symbols,
                        std::vector<MergeStep>& steps) {
  while (symbols.size() > 1) {
    Merge best;
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const Merge merge = table.find(symbols[i].id, symbols[i + 1].id);
      if (merge.rank >= best.rank) continue;
      best = merge;
      at = i;
    }
    if (best.rank == kNoRank) return;
    const Span left = symbols[at].span, right = symbols[at + 1].span;
    steps.push_back({best.rank, left.begin, right.begin, right.end});
    symbols[at] = {best.merged, {left.begin, right.end}};
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
}

}  // namespace pyllm::tokenizers
