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
