// Pair encoding that starts from characters: SentencePiece's BPE (Llama 2, Mistral, Gemma) and what the
// tokenizers package makes of it.
//
//   piece      ▁the▁cat🙂              cut before each marker ▁ where no token goes across: merges never see
//   the border symbols    ▁ t h e | ▁ c a t ?      one for each character; ? has no token merges     ▁the |
//   ▁cat ?            lowest rank first (highest score), of equal ranks the leftmost ids        ▁the ▁cat
//   <0xF0> <0x9F> <0x99> <0x82>      what has no token becomes bytes, or the unknown token
//
// A text may be one piece of any length; cutting it gives back the words, which a cache then knows.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "character_tokens.h"
#include "double_array_trie.h"
#include "fallback.h"
#include "joined_characters.h"
#include "model.h"

namespace pyllm::tokenizers {

struct CharacterPairDefinition {
  TokenBytes vocabulary;
  std::vector<bool> usable;       // by id; false for tokens that text never gives: control tokens, bytes
  std::vector<MergeRule> merges;  // unused if there are scores
  std::vector<float> scores;      // by id: any two symbols merge that join to a token, the best score first
  std::vector<TokenId> frozen;    // found before everything else and never merged: user-defined symbols
  Fallback fallback;
  bool ignore_merges = false;  // a piece that is a token is that token
};

class CharacterPairEncoder final : public Model {
 public:
  // Throws std::invalid_argument.
  explicit CharacterPairEncoder(const CharacterPairDefinition& definition);

  // Takes the tables that store() wrote instead of making them: of the definition `usable`, `merges` and
  // `frozen` do not count.
  CharacterPairEncoder(const CharacterPairDefinition& definition, const SectionReader& file);
  void store(SectionWriter& file) const override;

  void encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                    std::vector<size_t>* lengths) const override;
  std::vector<MergeRule> merges() const override;
  std::vector<MergeStep> merge_steps(std::string_view piece) const override;
  bool cuts_between(uint32_t before, uint32_t after) const override;

 private:
  size_t next_cut(std::string_view piece, size_t begin) const;
  void encode_known_characters(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                               std::vector<size_t>* lengths) const;
  void encode_characters(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                         std::vector<size_t>* lengths) const;
  void encode_unfrozen(std::string_view text, EncoderScratch& scratch, FallbackWriter& writer,
                       std::vector<size_t>* lengths, std::vector<TokenId>& ids) const;
  void merge_from(size_t first, EncoderScratch& scratch) const;
  void encode_word(std::string_view word, EncoderScratch& scratch, FallbackWriter& writer) const;

  size_t vocabulary_size_;  // larger ids are characters that have no token but take part in merges
  TokenBytes tokens_;
  TokenTable table_;
  CharacterTokens characters_;
  Fallback fallback_;
  MergeTable merges_;
  JoinedCharacters joined_;
  DoubleArrayTrie frozen_;
  bool ignore_merges_;
  bool drops_unknown_;
  bool can_cut_;
  FrozenArray<uint32_t> before_marker_;  // characters after which some token goes on with a marker; sorted
};

}  // namespace pyllm::tokenizers
