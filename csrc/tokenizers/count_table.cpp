#include "count_table.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "hash.h"

namespace pyllm::tokenizers {
namespace {

// The frequent pieces fit into a second-level cache; the rest comes by doubling.
constexpr size_t kFirstSlots = 1 << 14;

// Three of four slots at most, so that probes stay short.
bool crowded(size_t used, size_t slots) { return (used + 1) * 4 > slots * 3; }

}  // namespace

CountTable::CountTable(MemoryBudget& budget, bool remember_places)
    : budget_(&budget), remember_places_(remember_places) {
  grow_short();
}

CountTable::CountTable(CountTable&& other) noexcept
    : budget_(other.budget_),
      taken_(std::exchange(other.taken_, 0)),
      remember_places_(other.remember_places_),
      short_(std::move(other.short_)),
      short_places_(std::move(other.short_places_)),
      short_used_(other.short_used_),
      long_(std::move(other.long_)),
      long_used_(other.long_used_),
      arena_(std::move(other.arena_)) {}

CountTable::~CountTable() { budget_->give_back(taken_); }

void CountTable::take(size_t bytes) {
  budget_->take(bytes, "the table of different pieces");
  taken_ += bytes;
}

size_t CountTable::short_slot(const PieceKey& key, uint64_t hash) const {
  size_t slot = hash & (short_.size() - 1);
  while (!short_[slot].key.none() && short_[slot].key != key) slot = (slot + 1) & (short_.size() - 1);
  return slot;
}

void CountTable::grow_short() {
  const size_t old_bytes = short_.size() * sizeof(ShortSlot) + short_places_.size() * sizeof(uint64_t);
  const size_t slots = std::max(short_.size() * 2, kFirstSlots);
  take(slots * (sizeof(ShortSlot) + (remember_places_ ? sizeof(uint64_t) : 0)));
  HugeArray<ShortSlot> old(slots);
  HugeArray<uint64_t> old_places(remember_places_ ? slots : 0);
  std::swap(old, short_);
  std::swap(old_places, short_places_);
  for (size_t i = 0; i < old.size(); ++i) {
    if (old[i].key.none()) continue;
    const size_t slot = short_slot(old[i].key, old[i].key.hash());
    short_[slot] = old[i];
    if (remember_places_) short_places_[slot] = old_places[i];
  }
  budget_->give_back(old_bytes);
  taken_ -= old_bytes;
}

void CountTable::insert_short(size_t slot, const PieceKey& key, int64_t count, uint64_t place) {
  if (crowded(short_used_, short_.size())) {
    grow_short();
    slot = short_slot(key, key.hash());
  }
  short_[slot] = {key, count};
  if (remember_places_) short_places_[slot] = place;
  ++short_used_;
}

void CountTable::grow_long() {
  const size_t slots = std::max(long_.size() * 2, kFirstSlots);
  take(slots * sizeof(LongSlot));
  std::vector<LongSlot> old(slots);
  old.swap(long_);
  for (const LongSlot& entry : old) {
    if (entry.length == 0) continue;
    size_t slot = entry.hash & (slots - 1);
    while (long_[slot].length != 0) slot = (slot + 1) & (slots - 1);
    long_[slot] = entry;
  }
  budget_->give_back(old.size() * sizeof(LongSlot));
  taken_ -= old.size() * sizeof(LongSlot);
}

void CountTable::reserve_arena(size_t bytes) {
  const size_t old = arena_.capacity(), wanted = arena_.size() + bytes;
  if (wanted <= old) return;
  const size_t capacity = std::max(wanted, old + old / 2);
  take(capacity);
  arena_.reserve(capacity);
  budget_->give_back(old);
  taken_ -= old;
}

void CountTable::add_long(std::string_view piece, int64_t count, uint64_t place) {
  if (piece.size() > UINT32_MAX) throw std::length_error("a piece of text holds 2^32 bytes or more");
  if (crowded(long_used_, long_.size())) grow_long();
  const uint64_t hash = hash_bytes(piece);
  size_t slot = hash & (long_.size() - 1);
  for (; long_[slot].length != 0; slot = (slot + 1) & (long_.size() - 1)) {
    if (long_[slot].hash != hash || bytes_of(long_[slot]) != piece) continue;
    long_[slot].count += count;
    long_[slot].place = std::min(long_[slot].place, place);
    return;
  }
  reserve_arena(piece.size());
  long_[slot] = {hash, place, arena_.size(), count, static_cast<uint32_t>(piece.size())};
  arena_.insert(arena_.end(), piece.begin(), piece.end());
  ++long_used_;
}

void CountTable::add(const CountedPiece& counted) {
  if (counted.piece.size() > kShortPiece) return add_long(counted.piece, counted.count, counted.first);
  const PieceKey key = key_of(counted.piece);
  add_short(key, key.hash(), counted.count, counted.first);
}

void CountTable::merge(const CountTable& other) {
  other.for_each([&](const CountedPiece& counted) { add(counted); });
}

}  // namespace pyllm::tokenizers
