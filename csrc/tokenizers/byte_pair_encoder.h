// Byte-pair encoding of pieces.
//
//   piece -> cache -> whole-piece table -> merging; long ones: longest match where that is proven
//
// A text goes through in batches of pieces: first all keys, whose cache lines are asked for at once, then all
// answers.
//
//   text     The | quick | brown | fox         piece ends, by the scanner
//   keys     k0    k1      k2      k3          and hashes; memory starts to bring the lines
//   tokens   464   2068    7586    21831       by now the lines are here
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "merge_table.h"
#include "model.h"
#include "piece_key.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class LongestMatchEncoder;
class PieceTable;
class ShortMerger;

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
  ~BytePairEncoder() override;

  void encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& out,
                    std::vector<size_t>* lengths) const override;
  void encode_text(NextPiece next_piece, std::string_view text, EncoderScratch& scratch,
                   std::vector<TokenId>& out) const override;
  std::vector<MergeRule> merges() const override { return rules_; }
  std::vector<MergeStep> merge_steps(std::string_view piece) const override;

 private:
  void find_byte_tokens(const TokenTable& table, bool all_required);
  void merge_piece(std::string_view piece, EncoderScratch& scratch) const;
  std::vector<TokenId> reachable(const std::vector<TokenId>& ids) const;
  void append_lengths(std::string_view piece, const TokenId* ids, size_t count,
                      std::vector<size_t>& lengths) const;
  TokenId* encode_seldom(const PieceKey& key, uint64_t hash, std::string_view piece, EncoderScratch& scratch,
                         TokenId* out) const;
  TokenId* encode_long(uint64_t hash, std::string_view piece, EncoderScratch& scratch, TokenId* out) const;
  class Batch;

  TokenBytes tokens_;
  std::vector<MergeRule> rules_;
  MergeTable merges_;
  // kNoToken: the vocabulary has no token for the byte, which is then left out, as tokenizers does.
  std::array<TokenId, 256> byte_tokens_;
  std::unique_ptr<LongestMatchEncoder> longest_match_;  // nullptr where the proof fails
  std::unique_ptr<ShortMerger> short_merger_;           // nullptr where there are too many ranks
  std::unique_ptr<PieceTable> whole_pieces_;
};

}  // namespace pyllm::tokenizers
