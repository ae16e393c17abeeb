// Where a text may be cut before anything is done to it, so that its words can be encoded one by one and
// remembered by their own bytes.
//
//   text     The  cat, sat        a cut before the first of the spaces that follow a character of a proven
//   set words    The|  cat,| sat      each alone goes through normalizers, pretokenizer and model
//
// What makes that exact: every step is local, which means that it treats a part of the text alike whatever
// stands beyond the cut, as long as it knows whether the text starts there; and for each character of the set
// it has been tried that the pretokenizer cuts between it and the space, or that the model has no token that
// goes from the one to the other.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model.h"

namespace pyllm::tokenizers {

class WordCuts {
 public:
  // The pieces that the steps before the model make of a part of a text which does not start there.
  using PiecesOf = std::function<std::vector<std::string>(std::string_view)>;

  // No cuts.
  WordCuts() = default;
  WordCuts(const PiecesOf& pieces_of, const Model& model);

  // Whether there are any.
  bool any() const { return any_; }

  // The first cut after `begin`, text.size() if there is none.
  size_t next(std::string_view text, size_t begin) const {
    for (size_t at = begin + 1; at < text.size(); ++at) {
      if (text[at] == ' ' && before_space_[static_cast<unsigned char>(text[at - 1])]) return at;
    }
    return text.size();
  }

 private:
  bool before_space_[256] = {};
  bool any_ = false;
};

}  // namespace pyllm::tokenizers
