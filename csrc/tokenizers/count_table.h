// Counts byte strings: how often each piece of a training text stands in it.
//
//   piece of 1 to 15 bytes   -> slot {16-byte key, count}: hashed, compared and stored as two words
//   longer piece             -> slot {hash, place in the arena, count}; its bytes lie in the arena
//
// Both are flat, open addressing. A table belongs to one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "huge_array.h"
#include "memory_budget.h"
#include "piece_key.h"

namespace pyllm::tokenizers {

struct CountedPiece {
  std::string_view piece;
  int64_t count;
  uint64_t first = 0;  // place of its first occurrence in the text, if the table remembers places
};

class CountTable {
 public:
  // The budget must outlive the table.
  CountTable(MemoryBudget& budget, bool remember_places);
  CountTable(CountTable&& other) noexcept;
  CountTable& operator=(CountTable&&) = delete;
  ~CountTable();

  // Asks for the slot of a short piece ahead of time.
  void prefetch(uint64_t hash) const { __builtin_prefetch(&short_[hash & (short_.size() - 1)], 1); }

  // `place` is where the piece stands; the smallest is remembered. hash = key.hash().
  void add_short(const PieceKey& key, uint64_t hash, int64_t count, uint64_t place) {
    size_t slot = hash & (short_.size() - 1);
    for (; !short_[slot].key.none(); slot = (slot + 1) & (short_.size() - 1)) {
      if (short_[slot].key == key) {
        short_[slot].count += count;
        if (remember_places_) short_places_[slot] = std::min(short_places_[slot], place);
        return;
      }
    }
    insert_short(slot, key, count, place);
  }

  void add_long(std::string_view piece, int64_t count, uint64_t place);

  // A piece of any length.
  void add(const CountedPiece& counted);

  // Adds what another table has counted.
  void merge(const CountTable& other);

  size_t size() const { return short_used_ + long_used_; }

  // Every piece once, in no particular order. The views live as long as the table and nothing is added.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (size_t i = 0; i < short_.size(); ++i) {
      const ShortSlot& slot = short_[i];
      if (slot.key.none()) continue;
      const std::string_view piece(reinterpret_cast<const char*>(&slot.key), slot.key.high >> 56);
      visit(CountedPiece{piece, slot.count, remember_places_ ? short_places_[i] : 0});
    }
    for (const LongSlot& slot : long_) {
      if (slot.length != 0) visit(CountedPiece{bytes_of(slot), slot.count, slot.place});
    }
  }

 private:
  struct ShortSlot {
    PieceKey key;
    int64_t count = 0;
  };

  struct LongSlot {
    uint64_t hash = 0, place = 0;
    size_t offset = 0;  // in the arena
    int64_t count = 0;
    uint32_t length = 0;  // 0: free slot
  };

  std::string_view bytes_of(const LongSlot& slot) const { return {arena_.data() + slot.offset, slot.length}; }
  void insert_short(size_t slot, const PieceKey& key, int64_t count, uint64_t place);
  size_t short_slot(const PieceKey& key, uint64_t hash) const;
  void grow_short();
  void grow_long();
  void reserve_arena(size_t bytes);
  void take(size_t bytes);

  MemoryBudget* budget_;
  size_t taken_ = 0;
  bool remember_places_;
  HugeArray<ShortSlot> short_;
  HugeArray<uint64_t> short_places_;  // by slot
  size_t short_used_ = 0;
  std::vector<LongSlot> long_;
  size_t long_used_ = 0;
  std::vector<char> arena_;
};

}  // namespace pyllm::tokenizers
