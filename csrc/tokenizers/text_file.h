// Reads a file in parts that begin and end where pieces do, so that threads can take any part of it without
// knowing of each other.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "memory_budget.h"
#include "pretokenizer.h"

namespace pyllm::tokenizers {

// The memory of one thread for parts.
class PartBuffer {
 public:
  explicit PartBuffer(MemoryBudget& budget) : budget_(&budget) {}
  PartBuffer(PartBuffer&&) = default;
  PartBuffer(const PartBuffer&) = delete;
  PartBuffer& operator=(const PartBuffer&) = delete;
  ~PartBuffer() { budget_->give_back(bytes_.size()); }

  char* data() { return bytes_.data(); }
  // Keeps what is there.
  void grow(size_t size);

 private:
  MemoryBudget* budget_;
  std::vector<char> bytes_;
};

struct TextPart {
  std::string_view text;
  uint64_t begin;  // in the file
};

class TextFile {
 public:
  // Throws std::invalid_argument if it cannot be read.
  explicit TextFile(const std::string& path);

  uint64_t size() const { return size_; }

  // What lies between the first safe cut at or behind `begin` and the first one at or behind `end` (the start
  // and the end of the file are cuts too); empty if they are the same. Nothing is read twice but the margins,
  // and a file without cuts comes whole with its first part. Throws std::invalid_argument, which names the
  // file, if it is not UTF-8.
  TextPart read_part(NextPiece next_piece, uint64_t begin, uint64_t end, PartBuffer& buffer);

 private:
  // Bytes [begin, end), which lie in the file, to `out`.
  void read(uint64_t begin, uint64_t end, char* out);

  std::string path_;
  std::ifstream stream_;
  uint64_t size_ = 0;
};

}  // namespace pyllm::tokenizers
