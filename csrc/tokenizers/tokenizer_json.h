// The large lists of a tokenizer.json, model.vocab and model.merges; all the rest stays JSON, for Python.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json_reader.h"
#include "spellings.h"

namespace pyllm::tokenizers {

struct TokenizerJson {
  std::string rest;  // the document with null in the place of the lists that are read
  // nullptr: model.vocab is neither an object nor an array.
  std::shared_ptr<const Spellings> vocabulary;
  std::optional<std::vector<double>> scores;   // by entry, if model.vocab is an array
  std::optional<std::vector<TokenId>> merges;  // rows of left, right, merged, if model.merges is an array
};

// Throws std::invalid_argument, naming the place.
TokenizerJson read_tokenizer_json(std::string_view text);

// An object of spellings and ids.
std::shared_ptr<const Spellings> read_vocabulary(JsonReader& reader);

}  // namespace pyllm::tokenizers
