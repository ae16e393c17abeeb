// Counts the pieces of a training text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "pretokenizer.h"

namespace pyllm::tokenizers {

struct CountedPiece {
  std::string_view piece;
  int64_t count;
};

// A set of byte strings with counts: flat open addressing over one arena.
class CountTable {
 public:
  void add(std::string_view piece, int64_t count);
  std::vector<CountedPiece> pieces() const;

 private:
  struct Entry {
    size_t offset = 0;
    uint64_t hash = 0;
    int64_t count = 0;  // 0: free slot
    uint32_t length = 0;
  };

  size_t locate(std::string_view piece, uint64_t hash) const;
  void grow();

  std::string arena_;
  std::vector<Entry> entries_;
  size_t used_ = 0;
};

// Feeds texts to per-thread tables. The counts depend neither on the number of threads nor on the order of
// texts.
class PieceCounter {
 public:
  // Boundary strings (special tokens) cut the text and are not counted.
  PieceCounter(std::string_view grammar, const std::vector<std::string>& boundaries);
  PieceCounter(const PieceCounter&) = delete;
  PieceCounter& operator=(const PieceCounter&) = delete;

  void add(const std::vector<std::string_view>& texts, size_t num_threads);

  // Every different piece, sorted by its bytes. The views live as long as the counter and no add() follows.
  std::vector<CountedPiece> pieces();

 private:
  void count_text(std::string_view text, CountTable& table) const;

  NextPiece next_piece_;
  std::vector<AddedToken> boundaries_;
  AddedTokenMatcher matcher_;
  std::vector<CountTable> tables_;
};

}  // namespace pyllm::tokenizers
