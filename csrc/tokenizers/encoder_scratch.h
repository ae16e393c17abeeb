// Working memory of one thread that encodes.
#pragma once

#include <vector>

#include "longest_match.h"
#include "merger.h"
#include "piece_cache.h"
#include "piece_key.h"
#include "short_piece_cache.h"
#include "vocabulary.h"
#include "word_memory.h"

namespace pyllm::tokenizers {

// The best way to an end in a piece, for Unigram.
struct PathNode {
  double score = 0;
  uint32_t length = 0;  // of the last token; 0: no way leads here
  TokenId id = kNoToken;
  double lead = 0;  // by how much it beats the next best way
};

// Pieces on their way through the caches.
struct PieceBatch {
  static constexpr size_t kMostPieces = 128;

  size_t ends[kMostPieces];
  PieceKey keys[kMostPieces];  // none for long pieces
  uint64_t hashes[kMostPieces];
};

struct EncoderScratch {
  PieceBatch batch;
  std::vector<TokenId> symbols;
  Merger merger;
  PieceCache cache;
  ShortPieceCache short_cache;
  LongestMatchScratch longest_match;
  std::vector<PathNode> path;
  WordMemory words;
  double path_score = 0;  // of what has been encoded of the text, where the model has memory

  // Gives memory that a very long piece has taken back to the system.
  void trim() {
    constexpr size_t kKept = 1 << 16;
    merger.trim();
    if (symbols.capacity() > kKept) std::vector<TokenId>().swap(symbols);
    if (path.capacity() > kKept) std::vector<PathNode>().swap(path);
  }
};

}  // namespace pyllm::tokenizers
