// Byte-pair encoding of one piece: whole-piece table -> cache -> merger.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "merge_table.h"
#include "model.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

struct BytePairDefinition {
  std::vector<std::string_view> tokens;  // by id
  std::vector<bool> present;             // false where an id has no token
  std::vector<bool> mergeable;           // false for tokens that no merge and no piece may give: added tokens
  std::vector<MergeRule> merges;         // unused if ranked_by_id
  bool ranked_by_id = false;   // tiktoken: any two tokens merge if they join to a token; rank = its id
  bool ignore_merges = false;  // a piece that is a token is that token, even if merges do not lead to it
};

class BytePairEncoder final : public Model {
 public:
  // Throws std::invalid_argument on ids out of range, merges that do not join, or missing byte tokens.
  explicit BytePairEncoder(const BytePairDefinition& definition);

  void encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& out,
                    std::vector<size_t>* lengths) const override;
  const std::vector<MergeRule>& merges() const override { return rules_; }

 private:
  void find_byte_tokens(const TokenTable& table, bool all_required);
  void merge_piece(std::string_view piece, EncoderScratch& scratch) const;
  std::vector<TokenId> reachable(const std::vector<TokenId>& ids) const;
  void append_lengths(std::string_view piece, const TokenId* ids, size_t count,
                      std::vector<size_t>& lengths) const;

  TokenBytes tokens_;
  std::vector<MergeRule> rules_;
  MergeTable merges_;
  // kNoToken: the vocabulary has no token for the byte, which is then left out, as tokenizers does.
  std::array<TokenId, 256> byte_tokens_;
  TokenTable whole_pieces_;
};

}  // namespace pyllm::tokenizers
