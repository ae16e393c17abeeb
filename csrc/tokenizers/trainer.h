// Trains a byte-pair encoding.
//
//   words   the different pieces with their counts, merged in place (training_words.h)
//   pairs   by ids: count, and the places where the pair has stood (pair_table.h)
//   heap    candidates by count, possibly out of date: a pair whose count has fallen meanwhile is put back
//
//   repeat  take the most frequent pair (l, r); at each of its places write the merged token m
//             x l r y  ->  x m y     (x,l) and (r,y) lose the count of the piece, (x,m) and (m,y) win it
//           Counts are summed by neighbour first, so the table is asked once for each different x and y.
//
// No pair below a floor is stored. The floor is the count of the V-th most frequent piece, V being the number
// of tokens wanted: while there are fewer tokens, one of those V pieces is still in parts, and its pairs are
// as frequent as it is. Pairs of a new token are counted at once and never grow later, so what starts below
// the floor is never merged. (Except a token that a second merge spells: its pairs are counted anew.)
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "memory_budget.h"
#include "tie_break.h"
#include "training_words.h"

namespace pyllm::tokenizers {

struct TrainedMerge {
  TokenId left, right, merged;
};

// Tokens are different strings: 256 bytes in the order of the tie rule's ids, then one for each merge that
// made a new string. Merges are all that were made, in order; where two make the same string, or where one
// was made again, they share its id.
struct TrainedBytePairs {
  std::vector<std::string> tokens;
  std::vector<TrainedMerge> merges;
};

// Called with (tokens so far, tokens asked for); may throw to stop the training.
using TrainingProgress = std::function<void(size_t, size_t)>;

// Repeats, until there are `vocab_size` tokens or no pair is left: count every pair of neighbours over all
// pieces, take the most frequent one (of equal counts the one that `rule` says), merge it left to right
// everywhere. With the rules that make a new id each time there are vocab_size - 256 merges. The words must
// have the byte ids of the rule. Throws std::invalid_argument if vocab_size < 256 or > kMostTokens,
// BudgetExceeded if memory does not suffice.
TrainedBytePairs train_byte_pairs(TrainingWords words, size_t vocab_size, TieBreak rule, MemoryBudget& budget,
                                  const TrainingProgress& progress);

}  // namespace pyllm::tokenizers
