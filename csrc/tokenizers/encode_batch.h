// Many texts on several threads, long ones in parts.
//
//   texts    [a b c d]  [e, part 1]  [e, part 2]  [f g]      jobs of about equal size: texts in a row, or
//   threads   1          2            1            2         successive parts of one text, cut where proven
//   ids       a b c d    e ........   e ........   f g       joined in their order: no number of threads
//                                                            changes an id
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "tokenizer.h"

namespace pyllm::tokenizers {

struct EncodedBatch {
  std::vector<TokenId> ids;
  std::vector<size_t> borders;  // text i has ids[borders[i]] to ids[borders[i + 1] - 1]

  size_t size() const { return borders.size() - 1; }
  std::span<const TokenId> operator[](size_t i) const {
    return {ids.data() + borders[i], borders[i + 1] - borders[i]};
  }
};

// What stands around the ids of each text.
struct Surroundings {
  std::vector<TokenId> prefix, suffix;
};

EncodedBatch encode_batch(const Tokenizer& tokenizer, const std::vector<std::string_view>& texts,
                          const EncodeOptions& options, const Surroundings& around, size_t num_threads);

}  // namespace pyllm::tokenizers
