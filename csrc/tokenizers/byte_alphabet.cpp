#include "byte_alphabet.h"

#include <array>
#include <cstdint>

#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

constexpr uint16_t kNoByte = 256;
// The last letter is U+0143.
constexpr size_t kLetters = 0x144;

struct Alphabet {
  std::array<uint16_t, 256> letters{};
  std::array<uint16_t, kLetters> bytes{};

  // Printable characters of Latin-1 stand for themselves, the other bytes get the letters from U+0100 on.
  constexpr Alphabet() {
    bytes.fill(kNoByte);
    uint16_t next = 0x100;
    for (uint16_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      letters[byte] = printable ? byte : next++;
      bytes[letters[byte]] = byte;
    }
  }
};

constexpr Alphabet kAlphabet;

}  // namespace

void append_spelled(std::string_view token, std::string& out) {
  for (const char byte : token) append_utf8(out, kAlphabet.letters[static_cast<unsigned char>(byte)]);
}

bool append_unspelled(std::string_view spelling, std::string& out) {
  const size_t before = out.size();
  for (size_t at = 0; at < spelling.size();) {
    const Utf8Character letter = decode_utf8(spelling, at);
    const uint16_t byte = letter.code_point < kLetters ? kAlphabet.bytes[letter.code_point] : kNoByte;
    if (byte == kNoByte) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(byte));
    at += letter.length;
  }
  return true;
}

}  // namespace pyllm::tokenizers
