// Codes and scales into GGUF blocks: the inverse of unpack in gguf_blocks.h.
#pragma once

#include <algorithm>
#include <cstring>

#include "formats/gguf_blocks.h"

namespace pyllm::gguf {

// The nearest 16-bit float, finite.
inline Half to_half(float x) {
  const uint16_t bits = from_accumulator<float16>(std::clamp(x, -65504.0f, 65504.0f)).bits;
  return {{static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)}};
}

// 32 numbers below 16: j in the low nibble of byte j, j + 16 in the high one.
inline void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

// 256 numbers: runs of 32 bytes hold the low nibbles of 32 numbers and those of the next 32 above them.
inline void pack_nibble_runs(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 128; ++j) {
    const uint8_t* pair = codes + j / 32 * 64 + j % 32;
    qs[j] = static_cast<uint8_t>((pair[0] & 15) | (pair[32] & 15) << 4);
  }
}

// Bit 4 of 32 numbers, number j in bit j.
inline void pack_fifth_bits(const uint8_t* codes, uint8_t* qh) {
  std::memset(qh, 0, 4);
  for (int j = 0; j < 32; ++j) qh[j / 8] = static_cast<uint8_t>(qh[j / 8] | (codes[j] >> 4 & 1) << j % 8);
}

// The low two bits of 256 numbers: byte j of each half of 128 holds those of j, j + 32, j + 64 and j + 96.
inline void pack_pairs(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 64; ++j) {
    const uint8_t* run = codes + j / 32 * 128 + j % 32;
    qs[j] = static_cast<uint8_t>((run[0] & 3) | (run[32] & 3) << 2 | (run[64] & 3) << 4 | (run[96] & 3) << 6);
  }
}

// Bit `bit` of 256 numbers: number 32 * g + l in bit g of byte l.
inline void pack_bits(const uint8_t* codes, int bit, uint8_t* bits) {
  for (int l = 0; l < 32; ++l) {
    int byte = 0;
    for (int g = 0; g < 8; ++g) byte |= (codes[32 * g + l] >> bit & 1) << g;
    bits[l] = static_cast<uint8_t>(byte);
  }
}

// Eight pairs of six bits as scale_min reads them.
inline void pack_scale_min(const uint8_t* scale, const uint8_t* min, uint8_t* s) {
  for (int j = 0; j < 4; ++j) {
    s[j] = static_cast<uint8_t>(scale[j] | scale[j + 4] >> 4 << 6);
    s[j + 4] = static_cast<uint8_t>(min[j] | min[j + 4] >> 4 << 6);
    s[j + 8] = static_cast<uint8_t>((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
  }
}

// Sixteen numbers of six bits as signed_scale reads them.
inline void pack_scales_of_16(const uint8_t* scale, uint8_t* s) {
  for (int j = 0; j < 8; ++j) s[j] = static_cast<uint8_t>((scale[j] & 15) | (scale[j + 8] & 15) << 4);
  for (int j = 0; j < 4; ++j) {
    int high = 0;
    for (int k = 0; k < 4; ++k) high |= scale[j + 4 * k] >> 4 << 2 * k;
    s[8 + j] = static_cast<uint8_t>(high);
  }
}

}  // namespace pyllm::gguf
