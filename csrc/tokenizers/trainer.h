// Trains a byte-pair encoding.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "piece_counter.h"

namespace pyllm::tokenizers {

struct TrainedMerge {
  TokenId left, right, merged;
};

struct TrainedBytePairs {
  std::vector<std::string> tokens;  // by id: 256 bytes, then one for every merge that made a new string
  std::vector<TrainedMerge> merges;
};

// Called with (tokens so far, tokens asked for); may throw to stop the training.
using TrainingProgress = std::function<void(size_t, size_t)>;

// Repeats, until there are `vocab_size` tokens or no pair is left: count every pair of neighbours over all
// pieces, take the most frequent one (of equal counts the smallest (left id, right id)), merge it left to
// right everywhere. A merge that spells a token already there takes its id. This is what the tokenizers
// package's BpeTrainer computes with the byte-level alphabet, whose order of the 256 bytes the ids follow too
// ("!" first). Throws std::invalid_argument if vocab_size < 256.
TrainedBytePairs train_byte_pairs(const std::vector<CountedPiece>& pieces, size_t vocab_size,
                                  const TrainingProgress& progress);

}  // namespace pyllm::tokenizers
