#include "decoder.h"

#include <stdexcept>
#include <string>

namespace pyllm::tokenizers {

Decoder::Decoder(DecodingTables tables, const std::vector<AddedToken>& added)
    : tables_(std::move(tables)), special_(tables_.tokens.size()) {
  if (tables_.first.size() == 0) tables_.first = tables_.tokens;
  if (tables_.first.size() != size()) {
    throw std::invalid_argument("tokens: two lists of different lengths");
  }
  for (const AddedToken& token : added) {
    if (!tables_.tokens.contains(token.id)) {
      throw std::invalid_argument("added_tokens: id " + std::to_string(token.id) + " has no token");
    }
    if (token.special) special_[token.id] = true;
  }
}

void Decoder::store(SectionWriter& file) const {
  tables_.tokens.store(file, "decoding");
  if (!tables_.first.shares_memory(tables_.tokens)) tables_.first.store(file, "decoding.first");
}

// An id without token is refused, so those that have one must be the same everywhere.
DecodingTables load_decoding(const SectionReader& file) {
  const TokenBytes tokens = TokenBytes::load(file, "tokens");
  const auto load = [&](const std::string& name) {
    TokenBytes table = TokenBytes::load(file, name);
    bool same = table.size() == tokens.size();
    for (TokenId id = 0; same && id < tokens.size(); ++id) same = table.contains(id) == tokens.contains(id);
    if (!same) file.fail(name + ".entries", "not for the same ids as the tokens");
    return table;
  };
  DecodingTables tables{load("decoding"), {}};
  if (file.has("decoding.first.entries")) tables.first = load("decoding.first");
  return tables;
}

void Decoder::no_token(int64_t id, size_t index) const {
  throw std::invalid_argument("ids: " + std::to_string(id) + " at index " + std::to_string(index) +
                              " has no token (vocab_size is " + std::to_string(size()) + ")");
}

}  // namespace pyllm::tokenizers
