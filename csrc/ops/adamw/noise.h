// 16 random bits for every element of a parameter, for stochastic rounding.
//
// Philox blocks (core/random.h) of four words serve 256 elements in groups of 32, halves and words outermost,
// so that 32 blocks advance side by side in vectors:
//
//   element of a group   0 .. 31            32 .. 63   64 .. 95   96 .. 127   128 .. 159 ...
//   its 16 bits          low half, word 0   word 1     word 2     word 3      high half, word 0 ...
//   of block             0 .. 31            0 .. 31    0 .. 31    0 .. 31     0 .. 31
#pragma once

#include <bit>

#include "core/dtype.h"
#include "core/random.h"

namespace pyllm::adamw {
namespace {

constexpr int64_t kNoiseBlocks = 32;
constexpr int64_t kNoiseGroup = 8 * kNoiseBlocks;  // elements

// x rounded up or down to a bfloat16; `noise` is in [0, 2^16). NaN stays NaN and infinity infinity.
[[maybe_unused]] constexpr bfloat16 round_stochastically(float x, uint32_t noise) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = x == x ? bits + noise : bits | 0x400000u;
  return {static_cast<uint16_t>(rounded >> 16)};
}

// The noise of element i, one at a time.
[[maybe_unused]] constexpr uint32_t noise_of(uint64_t seed, int64_t step, int64_t i) {
  const int64_t place = i % kNoiseGroup, block = i / kNoiseGroup * kNoiseBlocks + place % kNoiseBlocks;
  const PhiloxBlock words = philox(seed, static_cast<uint64_t>(step), static_cast<uint64_t>(block));
  const auto word = static_cast<size_t>(place / kNoiseBlocks % 4);
  return words[word] >> (place < kNoiseGroup / 2 ? 0 : 16) & 0xffffu;
}

// The noise of a whole group: noise_of(seed, step, group * kNoiseGroup + j) for every j.
[[maybe_unused]] inline void fill_noise(uint64_t seed, int64_t step, int64_t group, uint32_t* noise) {
  uint32_t words[4][kNoiseBlocks];
  for (int64_t b = 0; b < kNoiseBlocks; ++b) {
    const auto block = static_cast<uint64_t>(group * kNoiseBlocks + b);
    words[0][b] = static_cast<uint32_t>(block);
    words[1][b] = static_cast<uint32_t>(block >> 32);
    words[2][b] = static_cast<uint32_t>(step);
    words[3][b] = static_cast<uint32_t>(static_cast<uint64_t>(step) >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int64_t b = 0; b < kNoiseBlocks; ++b) {
      PhiloxBlock c = {words[0][b], words[1][b], words[2][b], words[3][b]};
      c = philox_round(c, k0, k1);
      for (size_t w = 0; w < 4; ++w) words[w][b] = c[w];
    }
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  for (int64_t w = 0; w < 4; ++w) {
    for (int64_t b = 0; b < kNoiseBlocks; ++b) {
      noise[w * kNoiseBlocks + b] = words[w][b] & 0xffffu;
      noise[(4 + w) * kNoiseBlocks + b] = words[w][b] >> 16;
    }
  }
}

}  // namespace
}  // namespace pyllm::adamw
