// A short piece as two words that are equal exactly where the pieces are: nothing is compared byte by byte.
//
//   byte    0 1 2 3 4 5 6 7 | 8 ... 14   15
//   key     p i e c e 0 0 0 | 0 ...  0   length
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "hash.h"

namespace pyllm::tokenizers {

static_assert(std::endian::native == std::endian::little, "keys put the first byte of a piece lowest");

inline constexpr size_t kShortPiece = 15;

struct PieceKey {
  uint64_t low = 0, high = 0;

  bool operator==(const PieceKey&) const = default;

  // No piece is empty, so the key of zeros is free to mean none.
  bool none() const { return high == 0; }

  // One multiplication; callers use the low bits.
  uint64_t hash() const { return fold(low ^ 0x9E3779B97F4A7C15u, high ^ 0xD1B54A32D192ED03u); }
};

// By length: the bytes that belong to the piece.
inline constexpr std::array<PieceKey, kShortPiece + 1> kPieceBytes = [] {
  std::array<PieceKey, kShortPiece + 1> masks;
  for (size_t length = 1; length <= kShortPiece; ++length) {
    masks[length].low = length >= 8 ? ~uint64_t{0} : (uint64_t{1} << length * 8) - 1;
    masks[length].high = length > 8 ? (uint64_t{1} << (length - 8) * 8) - 1 : 0;
  }
  return masks;
}();

// Of 1 to kShortPiece bytes, 16 of which can be read.
inline PieceKey load_key(const char* piece, size_t length) {
  PieceKey key;
  std::memcpy(&key, piece, sizeof(key));
  const PieceKey& mask = kPieceBytes[length];
  return {key.low & mask.low, (key.high & mask.high) | uint64_t{length} << 56};
}

inline PieceKey key_of(std::string_view piece) {
  char padded[sizeof(PieceKey)] = {};
  std::memcpy(padded, piece.data(), piece.size());
  return load_key(padded, piece.size());
}

}  // namespace pyllm::tokenizers
