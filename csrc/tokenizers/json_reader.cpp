#include "json_reader.h"

#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

// More than any tokenizer has, less than Python's own reader takes.
constexpr size_t kDeepest = 500;
constexpr int kLargestPower = 308;

// Ends a run of plain bytes of a string: quote, backslash, control characters, and bytes beyond ASCII.
enum class StringByte : uint8_t { plain, special, high };

constexpr std::array<StringByte, 256> kStringBytes = [] {
  std::array<StringByte, 256> kinds{};
  for (size_t byte = 0; byte < 0x20; ++byte) kinds[byte] = StringByte::special;
  kinds['"'] = kinds['\\'] = StringByte::special;
  for (size_t byte = 0x80; byte < 256; ++byte) kinds[byte] = StringByte::high;
  return kinds;
}();

const std::array<double, kLargestPower + 1>& powers_of_ten() {
  static const std::array<double, kLargestPower + 1> powers = [] {
    std::array<double, kLargestPower + 1> table{};
    // The nearest doubles, as a literal would be; pow() need not give them.
    for (int i = 0; i <= kLargestPower; ++i) table[i] = std::stod("1e" + std::to_string(i));
    return table;
  }();
  return powers;
}

// As many decimal digits as 64 bits hold; the rest only counts.
struct Significand {
  uint64_t value = 0;
  bool full = false;

  bool add(char digit) {
    const auto number = static_cast<uint64_t>(digit - '0');
    full = full || value > UINT64_MAX / 10 || (value == UINT64_MAX / 10 && number > UINT64_MAX % 10);
    if (!full) value = value * 10 + number;
    return !full;
  }
};

}  // namespace

void JsonReader::fail(const char* expected) const {
  throw std::invalid_argument(std::string("not sound JSON: expected ") + expected + " at byte " +
                              std::to_string(at_) + " of " + std::to_string(text_.size()));
}

// Files are often indented: eight spaces at a time.
void JsonReader::skip_spaces() {
  constexpr uint64_t kSpaces = 0x2020202020202020;
  for (;;) {
    uint64_t word = 0;
    while (text_.size() - at_ >= sizeof(word)) {
      std::memcpy(&word, text_.data() + at_, sizeof(word));
      if (word != kSpaces) break;
      at_ += sizeof(word);
    }
    if (at_ == text_.size()) return;
    const char c = text_[at_];
    if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return;
    ++at_;
  }
}

void JsonReader::check_utf8(std::string_view bytes) const {
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Character character = decode_utf8(bytes, at);
    if (character.code_point >= kInvalidByte) fail("UTF-8");
    at += character.length;
  }
}

std::string_view JsonReader::string() {
  expect('"', "a string");
  const size_t begin = at_;
  bool high = false;
  for (; at_ < text_.size(); ++at_) {
    const StringByte kind = kStringBytes[static_cast<unsigned char>(text_[at_])];
    if (kind == StringByte::special) break;
    high = high || kind == StringByte::high;
  }
  if (at_ == text_.size()) fail("the end of a string");
  if (text_[at_] == '\\') return string_with_escapes(begin);
  if (text_[at_] != '"') fail("no control character in a string");
  const std::string_view found = text_.substr(begin, at_ - begin);
  if (high) check_utf8(found);
  ++at_;
  return found;
}

std::string_view JsonReader::string_with_escapes(size_t begin) {
  unescaped_.assign(text_.substr(begin, at_ - begin));
  while (at_ < text_.size() && text_[at_] != '"') {
    if (static_cast<unsigned char>(text_[at_]) < 0x20) fail("no control character in a string");
    if (text_[at_] == '\\') {
      ++at_;
      append_escape();
    } else {
      unescaped_.push_back(text_[at_++]);
    }
  }
  if (at_ == text_.size()) fail("the end of a string");
  check_utf8(unescaped_);
  ++at_;
  return unescaped_;
}

void JsonReader::append_escape() {
  constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char letter = at_ < text_.size() ? text_[at_++] : '\0';
  if (const size_t i = kLetters.find(letter); i != std::string_view::npos) {
    unescaped_.push_back(kMeanings[i]);
    return;
  }
  if (letter != 'u') fail("a known escape");
  uint32_t code_point = four_hex_digits();
  if (code_point >= 0xD800 && code_point < 0xDC00) {
    if (text_.substr(at_, 2) != "\\u") fail("the second half of a surrogate pair");
    at_ += 2;
    const uint32_t low = four_hex_digits();
    if (low < 0xDC00 || low > 0xDFFF) fail("the second half of a surrogate pair");
    code_point = 0x10000 + ((code_point - 0xD800) << 10 | (low - 0xDC00));
  } else if (code_point >= 0xDC00 && code_point <= 0xDFFF) {
    fail("the first half of a surrogate pair");
  }
  append_utf8(unescaped_, code_point);
}

uint32_t JsonReader::four_hex_digits() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    if (!letter && (c < '0' || c > '9')) fail("four hexadecimal digits");
    value = value << 4 | static_cast<uint32_t>(letter ? (c & 0x0F) + 9 : c - '0');
  }
  return value;
}

void JsonReader::check_leading_zero() {
  if (text_[at_] != '0') return;
  ++at_;
  if (is_digit()) fail("no digit after a leading zero");
  --at_;
}

int64_t JsonReader::integer() {
  const bool negative = take('-');
  Significand digits;
  if (!is_digit()) fail("a whole number");
  check_leading_zero();
  for (; is_digit(); ++at_) {
    if (!digits.add(text_[at_])) fail("a number of 64 bits");
  }
  if (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E'))
    fail("a whole number");
  if (digits.value > static_cast<uint64_t>(INT64_MAX)) fail("a number of 64 bits");
  const auto value = static_cast<int64_t>(digits.value);
  return negative ? -value : value;
}

double JsonReader::number() {
  const bool negative = take('-');
  Significand digits;
  int64_t power = 0;
  if (!is_digit()) fail("a number");
  check_leading_zero();
  for (; is_digit(); ++at_) power += digits.add(text_[at_]) ? 0 : 1;
  if (at_ < text_.size() && text_[at_] == '.') {
    ++at_;
    if (!is_digit()) fail("digits after the decimal point");
    for (; is_digit(); ++at_) power -= digits.add(text_[at_]) ? 1 : 0;
  }
  if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
    ++at_;
    const bool minus = at_ < text_.size() && text_[at_] == '-';
    if (minus || (at_ < text_.size() && text_[at_] == '+')) ++at_;
    if (!is_digit()) fail("digits of an exponent");
    int64_t exponent = 0;
    for (; is_digit(); ++at_) exponent = exponent > 1'000'000 ? exponent : exponent * 10 + (text_[at_] - '0');
    power += minus ? -exponent : exponent;
  }
  auto value = static_cast<double>(digits.value);
  for (; power < -kLargestPower && value != 0; power += kLargestPower) value /= 1e308;
  if (value != 0) {
    if (power > kLargestPower) fail("a number in the range of a double");
    value = power >= 0 ? value * powers_of_ten()[power] : value / powers_of_ten()[-power];
    if (std::isinf(value)) fail("a number in the range of a double");
  }
  return negative ? -value : value;
}

void JsonReader::skip() {
  std::vector<char> open;
  do {
    switch (const char c = peek()) {
      case '{':
      case '[':
        if (open.size() == kDeepest) fail("no more than 500 arrays and objects in one another");
        open.push_back(c == '{' ? '}' : ']');
        ++at_;
        break;
      case '}':
      case ']':
        if (open.empty() || open.back() != c) fail("a value");
        open.pop_back();
        ++at_;
        break;
      case '"':
        string();
        break;
      case ',':
      case ':':
        if (open.empty()) fail("a value");
        ++at_;
        break;
      default: {
        const size_t end = text_.find_first_of(" \n\t\r,:]}[{\"", at_);
        if (end == at_ || at_ == text_.size()) fail("a value");
        at_ = std::min(end, text_.size());
      }
    }
  } while (!open.empty());
}

void JsonReader::finish() {
  if (position() != text_.size()) fail("the end of the file");
}

}  // namespace pyllm::tokenizers
