// JSON as it is read once, from left to right: the caller asks for what it expects at the place reached.
//
//   reader.object([&](std::string_view key) { key == "vocab" ? read(reader) : reader.skip(); });
//
// Nothing is built that nobody asked for, no byte beyond the text is read, nothing recurses, and strings are
// sound UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pyllm::tokenizers {

class JsonReader {
 public:
  // Starts at a byte of the text.
  explicit JsonReader(std::string_view text, size_t at = 0) : text_(text), at_(at) {}

  // Where the next value starts; '\0' where there is none.
  char peek() {
    skip_spaces();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  size_t position() {
    skip_spaces();
    return at_;
  }

  // Calls member(key) for each member, which has to read or skip its value. The key lives until then.
  template <typename Member>
  void object(Member&& member) {
    expect('{', "an object");
    if (take('}')) return;
    do {
      const std::string_view key = string();
      expect(':', "':'");
      member(key);
    } while (take(','));
    expect('}', "',' or '}'");
  }

  // Calls element() for each element, which has to read or skip it.
  template <typename Element>
  void array(Element&& element) {
    expect('[', "an array");
    if (take(']')) return;
    do {
      element();
    } while (take(','));
    expect(']', "',' or ']'");
  }

  // Lives until the next call of string().
  std::string_view string();

  // A whole number, without fraction or exponent.
  int64_t integer();

  // A number as tokenizers reads it: the digits that fit 64 bits rounded to a double, then scaled by a power
  // of ten. The last bit may differ from the nearest double, and where scores of a Unigram model tie it
  // decides.
  double number();

  // Any value. Words and numbers are not looked into.
  void skip();

  // Throws unless only white space is left.
  void finish();

  // Throws std::invalid_argument, naming what was expected and where.
  [[noreturn]] void fail(const char* expected) const;

 private:
  void skip_spaces();
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c, const char* what) {
    if (!take(c)) fail(what);
  }
  bool is_digit() const { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; }
  void check_leading_zero();
  std::string_view string_with_escapes(size_t begin);
  void append_escape();
  uint32_t four_hex_digits();
  void check_utf8(std::string_view bytes) const;

  std::string_view text_;
  size_t at_ = 0;
  std::string unescaped_;
};

}  // namespace pyllm::tokenizers
