// A short piece as two words that are equal exactly where the pieces are: nothing is compared byte by byte.
//
//   byte    0 1 2 3 4 5 6 7 | 8 ... 14   15
//   key     p i e c e 0 0 0 | 0 ...  0   length
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace pyllm::tokenizers {

static_assert(std::endian::native == std::endian::little, "keys put the first byte of a piece lowest");

inline constexpr size_t kShortPiece = 15;

struct PieceKey {
  uint64_t low = 0, high = 0;

  bool operator==(const PieceKey&) const = default;

  // No piece is empty, so the key of zeros is free to mean none.
  bool none() const { return high == 0; }

  // One multiplication; callers use the low bits.
  uint64_t hash() const {
    const auto product =
        static_cast<unsigned __int128>(low ^ 0x9E3779B97F4A7C15u) * (high ^ 0xD1B54A32D192ED03u);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
};

// Of 1 to kShortPiece bytes, 16 of which can be read.
inline PieceKey load_key(const char* piece, size_t length) {
  PieceKey key;
  std::memcpy(&key, piece, sizeof(key));
  const unsigned low_bits = length >= 8 ? 64 : static_cast<unsigned>(length) * 8;
  const unsigned high_bits = length >= 8 ? static_cast<unsigned>(length) * 8 - 64 : 0;
  key.low &= ~uint64_t{0} >> (64 - low_bits);
  key.high &= (uint64_t{1} << high_bits) - 1;
  key.high |= uint64_t{length} << 56;
  return key;
}

inline PieceKey key_of(std::string_view piece) {
  char padded[sizeof(PieceKey)] = {};
  std::memcpy(padded, piece.data(), piece.size());
  return load_key(padded, piece.size());
}

}  // namespace pyllm::tokenizers
