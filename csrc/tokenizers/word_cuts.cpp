#include "word_cuts.h"

#include <algorithm>

#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

using Strings = std::vector<std::string>;

bool model_cuts(const std::string& left, const std::string& right, const Model& model) {
  return model.cuts_between(decode_utf8(left, previous_utf8(left, left.size())).code_point,
                            decode_utf8(right, 0).code_point);
}

// Whether the pieces of left and right are those of the two together, but perhaps for one that goes across,
// which the model then cuts.
bool same_pieces(const Strings& together, Strings left, Strings right, const Model& model) {
  if (left.empty() || right.empty()) return false;
  Strings apart = left;
  apart.insert(apart.end(), right.begin(), right.end());
  if (together == apart) return true;
  const bool cut = model_cuts(left.back(), right.front(), model);
  left.back() += right.front();
  left.insert(left.end(), right.begin() + 1, right.end());
  return cut && together == left;
}

}  // namespace

WordCuts::WordCuts(const PiecesOf& pieces_of, const Model& model) {
  constexpr std::string_view kAfter[] = {" a", "  a"};
  for (char c = '!'; c <= '~'; ++c) {
    const std::string before(1, c);
    before_space_[static_cast<unsigned char>(c)] =
        std::all_of(std::begin(kAfter), std::end(kAfter), [&](std::string_view after) {
          return same_pieces(pieces_of(before + std::string(after)), pieces_of(before), pieces_of(after),
                             model);
        });
  }
  any_ = std::find(std::begin(before_space_), std::end(before_space_), true) != std::end(before_space_);
}

}  // namespace pyllm::tokenizers
