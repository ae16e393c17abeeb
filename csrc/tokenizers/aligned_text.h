// A text on its way through the normalizers, which remembers where its bytes come from if somebody asks for
// offsets.
//
//   original   H  é        é is two bytes; NFD makes three of them, all of which come from those two
//   text       H  e  ◌́
//   origins   0:1 1:3 1:3 1:3
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace pyllm::tokenizers {

// Half-open, in bytes.
struct Span {
  size_t begin, end;
};

// Unicode's longest decomposition makes 33 bytes of 3. What grows more is made to harm: a file of a hundred
// steps that each double the text.
inline constexpr size_t kMostGrowth = 64, kSmallGrowth = 1 << 16;

struct AlignedText {
  std::string text;
  bool aligned = false;
  std::vector<Span> origins;     // by byte of the text; empty if not aligned
  size_t most_bytes = SIZE_MAX;  // that steps may make of it

  // A part of the original text that starts at `begin`.
  static AlignedText of(std::string_view text, size_t begin, bool aligned) {
    AlignedText result{std::string(text), aligned, {}, kMostGrowth * text.size() + kSmallGrowth};
    if (aligned) {
      result.origins.reserve(text.size());
      for (size_t i = 0; i < text.size(); ++i) result.origins.push_back({begin + i, begin + i + 1});
    }
    return result;
  }

  // Where a part of the text comes from, if it is aligned.
  Span origin(Span part) const {
    if (part.begin < part.end) return {origins[part.begin].begin, origins[part.end - 1].end};
    const size_t at = part.begin < origins.size() ? origins[part.begin].begin
                      : origins.empty()           ? 0
                                                  : origins.back().end;
    return {at, at};
  }
};

// Writes the text that a step makes of another.
class AlignedTextWriter {
 public:
  explicit AlignedTextWriter(const AlignedText& source) : source_(source) {
    written_.aligned = source.aligned;
    written_.most_bytes = source.most_bytes;
    written_.text.reserve(source.text.size() + source.text.size() / 8);
  }

  // Bytes that stand for a part of the source. Throws std::length_error where the text has grown too much.
  void append(std::string_view bytes, Span part) {
    if (written_.text.size() + bytes.size() > written_.most_bytes) {
      throw std::length_error("normalizers: the text grows to more than 64 times its size");
    }
    written_.text += bytes;
    if (written_.aligned) written_.origins.insert(written_.origins.end(), bytes.size(), source_.origin(part));
  }

  // A part of the source as it is.
  void copy(Span part) {
    written_.text.append(source_.text, part.begin, part.end - part.begin);
    if (!written_.aligned) return;
    const auto first = source_.origins.begin();
    written_.origins.insert(written_.origins.end(), first + static_cast<ptrdiff_t>(part.begin),
                            first + static_cast<ptrdiff_t>(part.end));
  }

  size_t size() const { return written_.text.size(); }
  const std::string& text() const { return written_.text; }
  void shorten(size_t size) {
    written_.text.resize(size);
    if (written_.aligned) written_.origins.resize(size);
  }

  AlignedText finish() { return std::move(written_); }

 private:
  const AlignedText& source_;
  AlignedText written_;
};

}  // namespace pyllm::tokenizers
