// WordPiece: a word is its longest prefix that is a token, then the longest continuation, and so on.
//
//   vocabulary   em  embed  ##ding  ##s        one trie; continuations start at the node that "##" leads to
//   word         embeddings  ->  embed ##ding ##s
//
// A word that does not come out even, or that is too long, is the unknown token. Words are at most
// `max_characters` long and a token at most as long as the longest, so the time is linear in the text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "double_array_trie.h"
#include "model.h"

namespace pyllm::tokenizers {

struct WordPieceDefinition {
  std::vector<std::string_view> tokens;  // by id
  std::vector<bool> usable;              // false for tokens that text never gives
  std::string prefix = "##";             // of continuations
  TokenId unknown = kNoToken;
  size_t max_characters = 100;
};

class WordPieceEncoder final : public Model {
 public:
  // Throws std::invalid_argument if there is no unknown token.
  explicit WordPieceEncoder(const WordPieceDefinition& definition);

  // Takes the trie that store() wrote; `tokens` and `usable` of the definition do not count. count: how many
  // ids there are.
  WordPieceEncoder(const WordPieceDefinition& definition, size_t count, const SectionReader& file);
  void store(SectionWriter& file) const override { trie_.store(file, "model.trie"); }

  void encode_piece(std::string_view word, EncoderScratch& scratch, std::vector<TokenId>& ids,
                    std::vector<size_t>* lengths) const override;

 private:
  bool append_tokens(std::string_view word, std::vector<TokenId>& ids, std::vector<size_t>* lengths) const;

  DoubleArrayTrie trie_;
  uint32_t continuations_ = DoubleArrayTrie::kRoot;  // declared before what the constructor finds it with
  bool has_continuations_;
  TokenId unknown_;
  size_t max_characters_;
};

}  // namespace pyllm::tokenizers
