#include "piece_counter.h"

#include <algorithm>
#include <stdexcept>

#include "hash.h"
#include "threads.h"

namespace pyllm::tokenizers {
namespace {

// Long texts are cut so that threads can share them.
constexpr size_t kChunkBytes = 1 << 20;

std::vector<AddedToken> boundary_tokens(const std::vector<std::string>& contents) {
  std::vector<AddedToken> tokens;
  for (const std::string& content : contents) {
    AddedToken token;
    token.content = content;
    tokens.push_back(token);
  }
  return tokens;
}

}  // namespace

size_t CountTable::locate(std::string_view piece, uint64_t hash) const {
  size_t slot = hash & (entries_.size() - 1);
  for (; entries_[slot].count != 0; slot = (slot + 1) & (entries_.size() - 1)) {
    const Entry& entry = entries_[slot];
    if (entry.hash != hash || entry.length != piece.size()) continue;
    if (std::string_view(arena_).substr(entry.offset, entry.length) == piece) break;
  }
  return slot;
}

void CountTable::grow() {
  std::vector<Entry> old(std::max<size_t>(entries_.size() * 2, 1024));
  old.swap(entries_);
  for (const Entry& entry : old) {
    if (entry.count == 0) continue;
    size_t slot = entry.hash & (entries_.size() - 1);
    while (entries_[slot].count != 0) slot = (slot + 1) & (entries_.size() - 1);
    entries_[slot] = entry;
  }
}

void CountTable::add(std::string_view piece, int64_t count) {
  if (piece.size() > UINT32_MAX) throw std::length_error("a piece of text holds 2^32 bytes or more");
  if (used_ * 2 >= entries_.size()) grow();
  const uint64_t hash = hash_bytes(piece);
  Entry& entry = entries_[locate(piece, hash)];
  if (entry.count == 0) {
    entry = {arena_.size(), hash, 0, static_cast<uint32_t>(piece.size())};
    arena_.append(piece);
    ++used_;
  }
  entry.count += count;
}

std::vector<CountedPiece> CountTable::pieces() const {
  std::vector<CountedPiece> result;
  result.reserve(used_);
  for (const Entry& entry : entries_) {
    if (entry.count != 0) {
      result.push_back({std::string_view(arena_).substr(entry.offset, entry.length), entry.count});
    }
  }
  return result;
}

PieceCounter::PieceCounter(std::string_view grammar, const std::vector<std::string>& boundaries)
    : next_piece_(find_pretokenizer(grammar)),
      boundaries_(boundary_tokens(boundaries)),
      matcher_(boundaries_, std::vector<bool>(boundaries_.size(), true)),
      tables_(1) {}

void PieceCounter::count_text(std::string_view text, CountTable& table) const {
  for_each_piece(next_piece_, text, [&](std::string_view piece) { table.add(piece, 1); });
}

void PieceCounter::add(const std::vector<std::string_view>& texts, size_t num_threads) {
  std::vector<std::string_view> chunks;
  const auto add_text = [&](std::string_view text) {
    const auto parts = split_safely(next_piece_, text, kChunkBytes);
    chunks.insert(chunks.end(), parts.begin(), parts.end());
  };
  const TokenFilter every(boundaries_.size(), true);
  for (const std::string_view text : texts) {
    size_t at = 0;
    for (const AddedTokenMatch& match : matcher_.find_all(text, every, {}, {})) {
      add_text(text.substr(at, match.begin - at));
      at = match.end;
    }
    add_text(text.substr(at));
  }
  if (tables_.size() < num_threads) tables_.resize(num_threads);
  parallel_for_each(chunks.size(), num_threads,
                    [&](size_t worker, size_t index) { count_text(chunks[index], tables_[worker]); });
}

std::vector<CountedPiece> PieceCounter::pieces() {
  for (size_t i = 1; i < tables_.size(); ++i) {
    for (const CountedPiece& piece : tables_[i].pieces()) tables_[0].add(piece.piece, piece.count);
  }
  tables_.resize(1);
  std::vector<CountedPiece> result = tables_[0].pieces();
  std::sort(result.begin(), result.end(),
            [](const CountedPiece& a, const CountedPiece& b) { return a.piece < b.piece; });
  return result;
}

}  // namespace pyllm::tokenizers
