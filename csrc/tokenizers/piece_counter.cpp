#include "piece_counter.h"

#include <algorithm>
#include <stdexcept>

#include "text_file.h"
#include "threads.h"
#include "valid_utf8.h"

namespace pyllm::tokenizers {
namespace {

// Small enough for a part to stay in the third-level cache, and for threads to end together.
constexpr uint64_t kPartBytes = 1 << 20;
// Parts between two reports.
constexpr size_t kPartsPerReport = 32;

std::vector<AddedToken> boundary_tokens(const std::vector<std::string>& contents) {
  std::vector<AddedToken> tokens;
  for (const std::string& content : contents) {
    AddedToken token;
    token.content = content;
    tokens.push_back(token);
  }
  return tokens;
}

struct FilePart {
  size_t file;
  uint64_t begin, end;
  uint64_t file_place;  // of the file in the whole training text
};

}  // namespace

PieceCounter::PieceCounter(std::string_view grammar, const std::vector<std::string>& boundaries,
                           TieBreak rule, MemoryBudget& budget)
    : next_piece_(find_pretokenizer(grammar)),
      scan_(find_scan(next_piece_)),
      boundaries_(boundary_tokens(boundaries)),
      matcher_(boundaries_, std::vector<bool>(boundaries_.size(), true)),
      every_boundary_(boundaries_.size(), true),
      part_bytes_(kPartBytes),
      rule_(rule),
      budget_(budget) {
  // Safe cuts stand behind a line end, so they could part a boundary that holds one.
  for (const std::string& boundary : boundaries) {
    if (boundary.find('\n') != std::string::npos) part_bytes_ = UINT64_MAX / 2;
  }
}

void PieceCounter::need_tables(size_t num_threads) {
  while (tables_.size() < num_threads) tables_.emplace_back(budget_, rule_ == TieBreak::first_seen);
}

void PieceCounter::count_segment(std::string_view text, uint64_t place, int64_t count,
                                 CountTable& table) const {
  // Keys first: the slots they ask for arrive while the next ones are made.
  constexpr size_t kPieces = 2 * kScanCapacity;
  size_t ends[kPieces];
  PieceKey keys[kPieces];
  uint64_t hashes[kPieces];
  for (size_t at = 0; at < text.size();) {
    const size_t pieces = scan_(text, at, next_piece_, ends, kPieces);
    for (size_t i = 0, begin = at; i < pieces; begin = ends[i++]) {
      const size_t length = ends[i] - begin;
      keys[i] = {};
      if (length > kShortPiece) continue;
      const bool readable = begin + sizeof(PieceKey) <= text.size();
      keys[i] = readable ? load_key(text.data() + begin, length) : key_of(text.substr(begin, length));
      hashes[i] = keys[i].hash();
      table.prefetch(hashes[i]);
    }
    for (size_t i = 0; i < pieces; at = ends[i++]) {
      if (keys[i].none()) {
        table.add_long(text.substr(at, ends[i] - at), count, place + at);
      } else {
        table.add_short(keys[i], hashes[i], count, place + at);
      }
    }
  }
}

void PieceCounter::count_text(std::string_view text, uint64_t place, int64_t count, CountTable& table) const {
  size_t at = 0;
  if (!matcher_.empty()) {
    for (const AddedTokenMatch& match : matcher_.find_all(text, every_boundary_, {}, {})) {
      count_segment(text.substr(at, match.begin - at), place + at, count, table);
      at = match.end;
    }
  }
  count_segment(text.substr(at), place + at, count, table);
}

void PieceCounter::add(const std::vector<std::string_view>& texts, int64_t count, size_t num_threads) {
  std::vector<std::string_view> parts;
  std::vector<uint64_t> places;
  for (const std::string_view text : texts) {
    for (const std::string_view part : split_safely(next_piece_, text, part_bytes_)) {
      parts.push_back(part);
      places.push_back(bytes_);
      bytes_ += part.size();
    }
  }
  need_tables(num_threads);
  parallel_for_each(parts.size(), num_threads, [&](size_t worker, size_t i) {
    count_text(parts[i], places[i], count, tables_[worker]);
  });
}

void PieceCounter::add_block(std::string_view block, bool ends_text, const std::string& origin,
                             size_t num_threads) {
  const size_t held = pending_.size();
  budget_.take(block.size(), "a part of a text without a safe place to cut it");
  pending_.append(block);
  size_t cut = pending_.size();
  if (!ends_text) cut = part_bytes_ == kPartBytes ? find_last_safe_cut(next_piece_, pending_, held) : 0;
  const std::string_view text = std::string_view(pending_).substr(0, cut);
  if (const size_t bad = find_invalid_utf8(text); bad < cut) {
    throw std::invalid_argument("data: '" + origin + "' is not UTF-8 text (byte " +
                                std::to_string(pending_place_ + bad) + ")");
  }
  add({text}, 1, num_threads);
  pending_.erase(0, cut);
  pending_place_ = ends_text ? 0 : pending_place_ + cut;
  budget_.give_back(cut);
}

void PieceCounter::add_files(const std::vector<std::string>& paths, size_t num_threads,
                             const CountingProgress& progress) {
  std::vector<FilePart> parts;
  for (size_t file = 0; file < paths.size(); ++file) {
    const uint64_t size = TextFile(paths[file]).size();
    for (uint64_t begin = 0; begin < size; begin += part_bytes_) {
      parts.push_back({file, begin, std::min(begin + part_bytes_, size), bytes_});
    }
    bytes_ += size;
  }
  need_tables(num_threads);
  std::vector<PartBuffer> buffers;
  for (size_t i = 0; i < num_threads; ++i) buffers.emplace_back(budget_);
  uint64_t done = 0;
  for (size_t first = 0; first < parts.size(); first += kPartsPerReport) {
    const size_t some = std::min(kPartsPerReport, parts.size() - first);
    parallel_for_each(some, num_threads, [&](size_t worker, size_t i) {
      const FilePart& part = parts[first + i];
      TextFile file(paths[part.file]);
      const TextPart read = file.read_part(next_piece_, part.begin, part.end, buffers[worker]);
      count_text(read.text, part.file_place + read.begin, 1, tables_[worker]);
    });
    for (size_t i = first; i < first + some; ++i) done += parts[i].end - parts[i].begin;
    progress(done);
  }
}

TrainingWords PieceCounter::take_words() {
  need_tables(1);
  for (; tables_.size() > 1; tables_.pop_back()) tables_.front().merge(tables_.back());
  const CountTable table = std::move(tables_.front());
  tables_.clear();
  size_t pieces = 0, bytes = 0;
  const auto for_each_word = [&](auto&& visit) {
    table.for_each([&](const CountedPiece& counted) {
      if (counted.piece.size() > 1) visit(counted);
    });
  };
  for_each_word([&](const CountedPiece& counted) {
    ++pieces;
    bytes += counted.piece.size();
  });
  TrainingWords words(pieces, bytes, budget_);
  const auto ids = byte_ids(rule_);
  const auto add = [&](const CountedPiece& counted) { words.add(counted.piece, counted.count, ids); };
  if (rule_ == TieBreak::first_seen) {
    std::vector<CountedPiece> sorted;
    for_each_word([&](const CountedPiece& counted) { sorted.push_back(counted); });
    std::sort(sorted.begin(), sorted.end(),
              [](const CountedPiece& a, const CountedPiece& b) { return a.first < b.first; });
    std::for_each(sorted.begin(), sorted.end(), add);
  } else {
    for_each_word(add);
  }
  words.finish();
  return words;
}

}  // namespace pyllm::tokenizers
