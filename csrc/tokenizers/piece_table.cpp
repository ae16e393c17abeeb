#include "piece_table.h"

namespace pyllm::tokenizers {

void PieceTable::fill(const TokenBytes& tokens, const std::vector<TokenId>& ids) {
  std::vector<TokenId> long_ids;
  // At most three slots in four are taken.
  slots_ = HugeArray<Slot>(std::bit_ceil(ids.size() * 4 / 3 + 2));
  mask_ = slots_.size() - 1;
  for (const TokenId id : ids) {
    const std::string_view bytes = tokens[id];
    if (bytes.size() > kShortPiece) {
      long_ids.push_back(id);
      continue;
    }
    const PieceKey key = key_of(bytes);
    uint64_t at = key.hash() & mask_;
    while (!slots_[at].key.none() && slots_[at].key != key) at = (at + 1) & mask_;
    if (slots_[at].key.none()) slots_[at] = {key, id};
  }
  long_tokens_.fill(long_ids);
}

}  // namespace pyllm::tokenizers
