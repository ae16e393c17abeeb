// What turns a piece of text into ids: byte pairs, character pairs, Unigram or WordPiece.
#pragma once

#include <string_view>
#include <vector>

#include "longest_match.h"
#include "merge_table.h"
#include "merger.h"
#include "piece_cache.h"
#include "pretokenizer.h"
#include "short_piece_cache.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

// The best way to an end in a piece, for Unigram.
struct PathNode {
  double score = 0;
  uint32_t length = 0;  // of the last token; 0: no way leads here
  TokenId id = kNoToken;
};

// Working memory of one thread.
struct EncoderScratch {
  std::vector<TokenId> symbols;
  Merger merger;
  PieceCache cache;
  ShortPieceCache short_cache;
  LongestMatchScratch longest_match;
  std::vector<PathNode> path;

  // Gives memory that a very long piece has taken back to the system.
  void trim() {
    constexpr size_t kKept = 1 << 16;
    merger.trim();
    if (symbols.capacity() > kKept) std::vector<TokenId>().swap(symbols);
    if (path.capacity() > kKept) std::vector<PathNode>().swap(path);
  }
};

// Immutable: any number of threads may use it, each with a scratch of its own, which is used with this model
// only.
class Model {
 public:
  Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  virtual ~Model() = default;

  // Appends the ids of one piece, which is not empty, and, if asked for, how many bytes of the piece each
  // stands for.
  virtual void encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                            std::vector<size_t>* lengths) const = 0;

  // Appends the ids of all pieces of a text.
  virtual void encode_text(NextPiece next_piece, std::string_view text, EncoderScratch& scratch,
                           std::vector<TokenId>& ids) const {
    for_each_piece(next_piece, text,
                   [&](std::string_view piece) { encode_piece(piece, scratch, ids, nullptr); });
  }

  // Every merge, derived ones included, by ascending rank; empty for models without merges.
  virtual const std::vector<MergeRule>& merges() const {
    static const std::vector<MergeRule> none;
    return none;
  }
};

}  // namespace pyllm::tokenizers
