// UTF-8 as the scanners read it. Text may hold any bytes: a byte that does not belong to a well-formed
// sequence is a character of its own (no code point, length 1), so that every byte string can be encoded and
// gets its bytes back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pyllm::tokenizers {

// Greater than every code point.
inline constexpr uint32_t kInvalidByte = 0x110000;

struct Utf8Character {
  uint32_t code_point;  // kInvalidByte + byte where the sequence is not well-formed
  uint32_t length;      // in bytes, at least 1
};

inline Utf8Character decode_utf8_tail(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i])); };
  const auto continues = [&](size_t i) { return at + i < text.size() && (byte(i) & 0xC0) == 0x80; };
  const uint32_t lead = byte(0);
  if (lead >= 0xC2 && lead <= 0xDF && continues(1)) {
    return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  }
  if ((lead & 0xF0) == 0xE0 && continues(1) && continues(2)) {
    const uint32_t code_point = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    const bool surrogate = code_point >= 0xD800 && code_point < 0xE000;
    if (code_point >= 0x800 && !surrogate) return {code_point, 3};
  }
  if (lead >= 0xF0 && lead <= 0xF4 && continues(1) && continues(2) && continues(3)) {
    const uint32_t code_point =
        (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    if (code_point >= 0x10000 && code_point <= 0x10FFFF) return {code_point, 4};
  }
  return {kInvalidByte + lead, 1};
}

// The character that starts at `at`, which must be inside of the text.
inline Utf8Character decode_utf8(std::string_view text, size_t at) {
  const unsigned char lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {lead, 1};
  return decode_utf8_tail(text, at);
}

// The start of the character that ends before `end` (end > 0).
inline size_t previous_utf8(std::string_view text, size_t end) {
  for (size_t back = 2; back <= 4 && back <= end; ++back) {
    if (decode_utf8(text, end - back).length == back) return end - back;
  }
  return end - 1;
}

inline void append_utf8(std::string& out, uint32_t code_point) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point >= kInvalidByte) {
    put(code_point - kInvalidByte);
  } else if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace pyllm::tokenizers
