// Counts the pieces of training texts.
//
//   texts, files -> parts of 1 MB, cut where pieces end -> threads -> a table each -> one table
//
// The counts depend neither on the number of threads nor on how the text was cut, nor on its order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "count_table.h"
#include "memory_budget.h"
#include "pretokenizer.h"
#include "scan/scan.h"
#include "tie_break.h"
#include "training_words.h"

namespace pyllm::tokenizers {

// Called with the number of bytes that are counted; may throw to stop.
using CountingProgress = std::function<void(uint64_t)>;

class PieceCounter {
 public:
  // Boundary strings (special tokens) cut the text and are not counted. The budget must outlive the counter.
  PieceCounter(std::string_view grammar, const std::vector<std::string>& boundaries, TieBreak rule,
               MemoryBudget& budget);
  PieceCounter(const PieceCounter&) = delete;
  PieceCounter& operator=(const PieceCounter&) = delete;

  // Each text stands in the training text `count` times.
  void add(const std::vector<std::string_view>& texts, int64_t count, size_t num_threads);

  // The next bytes of a long text of UTF-8, which is counted as far as it can be cut. `origin` names it in
  // the std::invalid_argument that is thrown if it is not UTF-8.
  void add_block(std::string_view block, bool ends_text, const std::string& origin, size_t num_threads);

  // Files of UTF-8, a text each. Throws std::invalid_argument, which names the file.
  void add_files(const std::vector<std::string>& paths, size_t num_threads, const CountingProgress& progress);

  // Of all texts so far.
  uint64_t bytes() const { return bytes_; }

  // The different pieces that hold a pair of bytes, in the order of the text where the tie rule looks at it.
  // Forgets them.
  TrainingWords take_words();

 private:
  // `place`: of the text in the whole training text.
  void count_text(std::string_view text, uint64_t place, int64_t count, CountTable& table) const;
  void count_segment(std::string_view text, uint64_t place, int64_t count, CountTable& table) const;
  void need_tables(size_t num_threads);

  NextPiece next_piece_;
  ScanPieces scan_;
  std::vector<AddedToken> boundaries_;
  AddedTokenMatcher matcher_;
  TokenFilter every_boundary_;
  uint64_t part_bytes_;
  TieBreak rule_;
  MemoryBudget& budget_;
  std::vector<CountTable> tables_;  // one for each thread
  uint64_t bytes_ = 0;
  std::string pending_;         // the end of the text that comes in blocks, not counted yet
  uint64_t pending_place_ = 0;  // in that text
};

}  // namespace pyllm::tokenizers
