// Hashes of the open-addressing tables.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace pyllm::tokenizers {

// A bijection of 64-bit words that spreads every bit (the finalizer of splitmix64).
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A cheaper one, for keys that nobody chooses: the low 32 bits of the result depend on every bit.
inline uint64_t spread(uint64_t x) { return (x * 0x9E3779B97F4A7C15u) >> 32; }

// The two halves of the product of 128 bits, one over the other.
inline uint64_t fold(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Of at least 16 bytes, sixteen at a time, for tables of which a crafted text may only lose the use: where
// one factor is zero the other does not count.
inline uint64_t hash_long(std::string_view bytes) {
  constexpr uint64_t kFirst = 0x9E3779B97F4A7C15u, kSecond = 0xD1B54A32D192ED03u;
  uint64_t state = bytes.size(), words[2];
  const char* data = bytes.data();
  const char* const last = data + bytes.size() - sizeof(words);
  for (; data < last; data += sizeof(words)) {
    std::memcpy(words, data, sizeof(words));
    state = fold(words[0] ^ kFirst ^ state, words[1] ^ kSecond) + state;
  }
  std::memcpy(words, last, sizeof(words));
  return fold(fold(words[0] ^ kFirst ^ state, words[1] ^ kSecond) ^ kFirst, state ^ kSecond);
}

// Whole words, then one word of the remaining bytes; the length keeps "a" and "a\0" apart.
inline uint64_t hash_bytes(std::string_view bytes) {
  uint64_t state = bytes.size() * 0x9E3779B97F4A7C15u;
  const char* data = bytes.data();
  size_t left = bytes.size();
  uint64_t word = 0;
  for (; left >= sizeof(word); left -= sizeof(word), data += sizeof(word)) {
    std::memcpy(&word, data, sizeof(word));
    state = mix(state ^ word);
  }
  word = 0;
  if (left > 0) std::memcpy(&word, data, left);
  return mix(state ^ word);
}

// Slots for `count` entries at a load of at most one half; a power of two.
inline size_t table_capacity(size_t count) { return std::bit_ceil(count * 2 + 2); }

}  // namespace pyllm::tokenizers
