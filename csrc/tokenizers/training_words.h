// The different pieces of a training text as one array, in which merging happens in place.
//
//   " the" 71 times, " a" 9 times         slot = {distance to the header: 8 bits, token: 24 bits}
//
//   slot      0      1   2   3   4    5      6   7    8
//   distance  0      1   2   3   4    0      1   2    0
//   token     71     _   t   h   e    9      _   a    end
//             header                  header
//
//   merged t+h: 71   _  th  th   e           a token's id stands in its first and its last slot, so both
//   merged +e:  71   _ the   -  the          neighbours of a token are found without links
//
// Where tokens begin only ever gets fewer, so a slot that holds an id today held its first byte or its last
// all along: a list of places where a pair has stood is checked against two slots.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string_view>
#include <vector>

#include "huge_array.h"
#include "memory_budget.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class TrainingWords {
 public:
  static constexpr TokenId kInside = 0xFFFFFF;  // neither end of a token
  static constexpr TokenId kMostTokens = kInside;

  // Room for `pieces` pieces of `bytes` bytes in all. Throws std::length_error for 2^32 slots or more.
  TrainingWords(size_t pieces, size_t bytes, MemoryBudget& budget);
  TrainingWords(TrainingWords&& other) noexcept;
  TrainingWords& operator=(TrainingWords&&) = delete;
  ~TrainingWords();

  // ids: the token of each byte. Throws std::overflow_error where counts of pairs could pass 2^63.
  void add(std::string_view piece, int64_t count, const std::array<TokenId, 256>& ids);
  // After the last piece.
  void finish() { slots_[used_++] = 0; }

  // Of every piece.
  std::vector<int64_t> counts() const;

  uint32_t size() const { return used_; }
  bool is_header(uint32_t slot) const { return slots_[slot] < 1u << kTokenBits; }
  TokenId token(uint32_t slot) const { return slots_[slot] & kInside; }
  void prefetch(uint32_t slot) const { __builtin_prefetch(&slots_[slot]); }

  // How often the piece around a slot stands in the text.
  int64_t count(uint32_t slot) const {
    uint32_t distance = slots_[slot] >> kTokenBits;
    for (; distance >= kFarther; distance = slots_[slot] >> kTokenBits) slot -= 1u << (distance - kFarther);
    return count_of_header(token(slot - distance));
  }

  // Two tokens of `left` and `right` bytes become one.
  void merge(uint32_t begin, uint32_t left, uint32_t right, TokenId merged) {
    put(begin + left - 1, kInside);
    put(begin + left, kInside);
    put(begin, merged);
    put(begin + left + right - 1, merged);
  }

  // Where a token of `length` > 1 bytes begins, anywhere; ascending.
  std::vector<uint32_t> places_of(TokenId token, uint32_t length) const;

  // Calls visit(slot) for each slot of a piece but its last: where two tokens of one byte each begin.
  template <typename Visit>
  void for_each_byte_pair(Visit&& visit) const {
    for (uint32_t slot = 0; slot + 1 < size(); ++slot) {
      if (!is_header(slot) && !is_header(slot + 1)) visit(slot);
    }
  }

 private:
  static constexpr unsigned kTokenBits = 24;
  // A distance of 128 or more is written as its highest power of two, after which one looks again.
  static constexpr uint32_t kFarther = 128;
  // A larger count is kept aside; the header has its place.
  static constexpr uint32_t kLargeCount = 1 << 23;

  static uint32_t distance_code(uint32_t distance) {
    return distance < kFarther ? distance : kFarther + static_cast<uint32_t>(std::bit_width(distance)) - 1;
  }
  int64_t count_of_header(uint32_t value) const {
    return value < kLargeCount ? value : large_counts_[value - kLargeCount];
  }
  void put(uint32_t slot, TokenId id) { slots_[slot] = (slots_[slot] & ~kInside) | id; }

  HugeArray<uint32_t> slots_;
  uint32_t used_ = 0;
  std::vector<int64_t> large_counts_;
  int64_t pairs_ = 0;  // in the whole text
  MemoryBudget* budget_;
  size_t taken_;
};

}  // namespace pyllm::tokenizers
