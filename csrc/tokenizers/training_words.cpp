#include "training_words.h"

#include <stdexcept>
#include <utility>

namespace pyllm::tokenizers {

TrainingWords::TrainingWords(size_t pieces, size_t bytes, MemoryBudget& budget) : budget_(&budget) {
  const size_t slots = pieces + bytes + 1;
  if (slots > UINT32_MAX) {
    throw std::length_error("files_or_texts: the different pieces hold 2^32 bytes or more");
  }
  taken_ = slots * sizeof(uint32_t);
  budget.take(taken_, "the array of different pieces");
  slots_ = HugeArray<uint32_t>(slots);
}

TrainingWords::TrainingWords(TrainingWords&& other) noexcept
    : slots_(std::move(other.slots_)),
      used_(other.used_),
      large_counts_(std::move(other.large_counts_)),
      pairs_(other.pairs_),
      budget_(other.budget_),
      taken_(std::exchange(other.taken_, 0)) {}

TrainingWords::~TrainingWords() { budget_->give_back(taken_); }

void TrainingWords::add(std::string_view piece, int64_t count, const std::array<TokenId, 256>& ids) {
  int64_t pairs = 0;
  if (__builtin_mul_overflow(count, static_cast<int64_t>(piece.size()), &pairs) ||
      __builtin_add_overflow(pairs_, pairs, &pairs_)) {
    throw std::overflow_error("files_or_texts: pairs of tokens would be counted beyond 2^63");
  }
  if (count < kLargeCount) {
    slots_[used_++] = static_cast<uint32_t>(count);
  } else {
    if (large_counts_.size() == kLargeCount) throw std::length_error("files_or_texts: too many large counts");
    slots_[used_++] = kLargeCount + static_cast<uint32_t>(large_counts_.size());
    large_counts_.push_back(count);
  }
  uint32_t distance = 0;
  for (const char byte : piece) {
    slots_[used_++] = distance_code(++distance) << kTokenBits | ids[static_cast<unsigned char>(byte)];
  }
}

std::vector<uint32_t> TrainingWords::places_of(TokenId wanted, uint32_t length) const {
  std::vector<uint32_t> places;
  for (uint32_t slot = 0; slot < size(); ++slot) {
    if (token(slot) != wanted || is_header(slot)) continue;
    places.push_back(slot);
    slot += length - 1;
  }
  return places;
}

std::vector<int64_t> TrainingWords::counts() const {
  std::vector<int64_t> result;
  for (uint32_t slot = 0; slot + 1 < size(); ++slot) {
    if (is_header(slot)) result.push_back(count_of_header(token(slot)));
  }
  return result;
}

}  // namespace pyllm::tokenizers
