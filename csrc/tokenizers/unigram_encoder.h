// Unigram: of all ways to write a piece as tokens, the one whose scores (log-probabilities) sum to the most.
//
//   Viterbi      at every end the best way that leads there: its score and the length of its last token
//
//   piece        ▁ h e l l o
//   best ends    0 1 2 3 4 5 6     from each start, in order, every token that begins there offers a way to
//   its end
//
// One walk through the trie from each character: linear in the piece times the longest token. Where tokens
// are longer than any vocabulary has them, those that end at each place are found instead (ending_keys.h).
// What no token covers costs the lowest score minus 10 for each character, and is written as bytes or as the
// unknown token.
//
// sentencepiece adds up scores from the start of the text in 32 bits, so that far from it near-ties fall by
// rounding. A word that no token leaves is remembered with the score up to which its best path leads by more
// than that.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "double_array_trie.h"
#include "ending_keys.h"
#include "fallback.h"
#include "model.h"

namespace pyllm::tokenizers {

// Sums are rounded as the original does, so that ties and near-ties fall the same way.
enum class UnigramArithmetic {
  float32,  // sentencepiece
  float64,  // tokenizers
};

struct UnigramDefinition {
  std::vector<std::string_view> tokens;  // by id
  std::vector<bool> usable;              // false for tokens that text never gives
  std::vector<double> scores;
  std::vector<TokenId> user_defined;  // always win against the tokens they are longer than
  double lowest_score = 0;            // what unknown characters cost 10 more than
  double highest_score = 0;
  Fallback fallback;
  UnigramArithmetic arithmetic = UnigramArithmetic::float32;
};

struct PathNode;

class UnigramEncoder final : public Model {
 public:
  // Throws std::invalid_argument.
  explicit UnigramEncoder(const UnigramDefinition& definition);

  // Takes the trie and scores that store() wrote instead of making them: `scores` and `user_defined` of the
  // definition do not count.
  UnigramEncoder(const UnigramDefinition& definition, const SectionReader& file);
  void store(SectionWriter& file) const override;

  void encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                    std::vector<size_t>* lengths) const override;

  bool cuts_between(uint32_t before, uint32_t after) const override;
  bool has_memory() const override { return round_; }
  TokenId encode_next(std::string_view piece, EncoderScratch& scratch,
                      std::vector<TokenId>& ids) const override;
  bool go_on(std::span<const TokenId> remembered, TokenId limit, EncoderScratch& scratch) const override;

 private:
  void find_best_path(std::string_view piece, double start, std::vector<PathNode>& path) const;
  void find_best_path_by_ends(std::string_view piece, std::vector<PathNode>& path) const;
  void append_path(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                   std::vector<size_t>* lengths) const;
  float limit_of(std::string_view piece, double start, const EncoderScratch& scratch) const;
  void offer(PathNode& node, double score, uint32_t length, TokenId id) const;
  void count_from_zero(std::vector<PathNode>& path, size_t begin) const;
  void find_borders(const UnigramDefinition& definition);
  double rounded(double score) const {
    return round_ ? static_cast<double>(static_cast<float>(score)) : score;
  }

  DoubleArrayTrie trie_;
  EndingKeys ending_tokens_;  // empty where all tokens are short
  FrozenArray<double> scores_;
  Fallback fallback_;
  double unknown_score_;
  double largest_score_ = 0;             // of all, without their signs
  std::vector<uint32_t> before_marker_;  // characters after which some token goes on with a marker; sorted
  size_t longest_ = 4;                   // bytes of a token, and of a character
  bool knows_marker_ = false, marker_is_unknown_ = false;
  bool round_;
};

}  // namespace pyllm::tokenizers
