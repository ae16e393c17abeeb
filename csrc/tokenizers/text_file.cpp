#include "text_file.h"

#include <algorithm>
#include <stdexcept>

#include "valid_utf8.h"

namespace pyllm::tokenizers {
namespace {

// Read behind a part at first, to find the cut where it ends.
constexpr uint64_t kMargin = 1 << 12;
// A cut is told from two bytes before it and one behind.
constexpr uint64_t kBefore = 2;

}  // namespace

void PartBuffer::grow(size_t size) {
  if (size <= bytes_.size()) return;
  budget_->take(size - bytes_.size(), "a part of a text without a safe place to cut it");
  bytes_.resize(size);
}

TextFile::TextFile(const std::string& path) : path_(path), stream_(path, std::ios::binary | std::ios::ate) {
  const std::streamoff size = stream_ ? static_cast<std::streamoff>(stream_.tellg()) : -1;
  if (size < 0) throw std::invalid_argument("data: cannot read '" + path + "'");
  size_ = static_cast<uint64_t>(size);
}

void TextFile::read(uint64_t begin, uint64_t end, char* out) {
  stream_.seekg(static_cast<std::streamoff>(begin));
  stream_.read(out, static_cast<std::streamsize>(end - begin));
  if (!stream_) throw std::invalid_argument("data: '" + path_ + "' ended while it was read");
}

TextPart TextFile::read_part(NextPiece next_piece, uint64_t begin, uint64_t end, PartBuffer& buffer) {
  end = std::min(end, size_);
  const uint64_t from = begin - std::min(begin, kBefore);
  uint64_t to = std::min(end + kMargin, size_);
  buffer.grow(to - from);
  read(from, to, buffer.data());
  const auto text = [&] { return std::string_view(buffer.data(), to - from); };
  const size_t first = begin == 0 ? 0 : find_safe_cut(next_piece, text(), begin - from);
  if (first >= end - from) return {{}, end};
  size_t last = end - from;
  while (end < size_) {
    last = find_safe_cut(next_piece, text(), last);
    if (last < text().size() || to == size_) break;
    // No cut yet: look on, in ever larger steps.
    const uint64_t further = std::min(to + (to - from), size_);
    buffer.grow(further - from);
    read(to, further, buffer.data() + (to - from));
    last = text().size();
    to = further;
  }
  const std::string_view part = text().substr(first, last - first);
  if (const size_t bad = find_invalid_utf8(part); bad < part.size()) {
    throw std::invalid_argument("data: '" + path_ + "' is not UTF-8 text (byte " +
                                std::to_string(from + first + bad) + ")");
  }
  return {part, from + first};
}

}  // namespace pyllm::tokenizers
