// Block layouts of GGUF tensors, byte for byte as in the file, and how one block becomes floats.
//
// Values are computed in float in the order of the format's definition, so that every reader gets the same
// bits: d * q, d * q + m, or (d * scale) * q - (dmin * min). Numbers are little endian; structs have
// alignment 1.
#pragma once

#include <bit>
#include <cstdint>

#include "core/dtype.h"

namespace pyllm::gguf {

struct Half {
  uint8_t bytes[2];
  operator float() const { return to_accumulator(float16{static_cast<uint16_t>(bytes[0] | bytes[1] << 8)}); }
};

// 4-bit formats of 32: element j is the low nibble of qs[j], element j + 16 the high one.
struct Q4_0 {
  Half d;
  uint8_t qs[16];
};
struct Q4_1 {
  Half d, m;
  uint8_t qs[16];
};
// 5-bit formats of 32: the fifth bit of element j is bit j of qh.
struct Q5_0 {
  Half d;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct Q5_1 {
  Half d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct Q8_0 {
  Half d;
  int8_t qs[32];
};
// 256 in groups of 32 with six-bit scales and minimums. 32 bytes of qs serve two groups: low nibbles, then
// high.
struct Q4_K {
  Half d, dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
// As Q4_K; the fifth bit of element l of group g is bit g of qh[l].
struct Q5_K {
  Half d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
// 256 in groups of 16. Each half of 128 takes four runs of 32 from 64 bytes of ql and 32 of qh.
struct Q6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  Half d;
};
// 256 in groups of 16 with four-bit scales (low) and minimums (high). Each half of 128 takes four runs of 32
// from the two-bit pairs of 32 bytes.
struct Q2_K {
  uint8_t scales[16];
  uint8_t qs[64];
  Half d, dmin;
};
// As Q2_K; the third bit of element l of run r is bit r of hmask[l]. Six-bit scales, 32 too large.
struct Q3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  Half d;
};
// 4-bit codes of kIq4Values, laid out as Q4_0.
struct IQ4_NL {
  Half d;
  uint8_t qs[16];
};
// 256 such codes in groups of 32 with six-bit scales, 32 too large: four bits in scales_l, two in scales_h.
struct IQ4_XS {
  Half d;
  uint8_t scales_h[2];
  uint8_t scales_l[4];
  uint8_t qs[128];
};
// 4-bit floats under a power of two (OCP microscaling formats), laid out as Q4_0.
struct MXFP4 {
  uint8_t e;
  uint8_t qs[16];
};

static_assert(sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(IQ4_NL) == 18);
static_assert(sizeof(IQ4_XS) == 136 && sizeof(MXFP4) == 17);
static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176 && sizeof(Q6_K) == 210);

template <class Block>
inline constexpr int64_t kElements = 32;
template <>
inline constexpr int64_t kElements<Q2_K> = 256;
template <>
inline constexpr int64_t kElements<Q3_K> = 256;
template <>
inline constexpr int64_t kElements<IQ4_XS> = 256;
template <>
inline constexpr int64_t kElements<Q4_K> = 256;
template <>
inline constexpr int64_t kElements<Q5_K> = 256;
template <>
inline constexpr int64_t kElements<Q6_K> = 256;

inline void unpack(const Q4_0& __restrict block, float* __restrict out) {
  const float d = block.d;
  for (int half = 0; half < 2; ++half) {
    for (int j = 0; j < 16; ++j) {
      out[half * 16 + j] = d * static_cast<float>((block.qs[j] >> half * 4 & 15) - 8);
    }
  }
}

inline void unpack(const Q4_1& __restrict block, float* __restrict out) {
  const float d = block.d, m = block.m;
  for (int half = 0; half < 2; ++half) {
    for (int j = 0; j < 16; ++j) {
      out[half * 16 + j] = d * static_cast<float>(block.qs[j] >> half * 4 & 15) + m;
    }
  }
}

// The 5-bit numbers of a block: nibbles of qs, and above them the bits of the little-endian word qh. The
// masks stand in a table because a shift by a different count in every lane is slow on x86.
struct FiveBits {
  uint8_t q[32];
  FiveBits(const uint8_t* qs, const uint8_t* qh) {
    constexpr uint8_t kBit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    for (int half = 0; half < 2; ++half) {
      for (int j = 0; j < 16; ++j) {
        const uint8_t top = (qh[half * 2 + j / 8] & kBit[j % 8]) ? 16 : 0;
        q[half * 16 + j] = static_cast<uint8_t>((qs[j] >> half * 4 & 15) | top);
      }
    }
  }
};

inline void unpack(const Q5_0& __restrict block, float* __restrict out) {
  const float d = block.d;
  const FiveBits five(block.qs, block.qh);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(five.q[j] - 16);
}

inline void unpack(const Q5_1& __restrict block, float* __restrict out) {
  const float d = block.d, m = block.m;
  const FiveBits five(block.qs, block.qh);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(five.q[j]) + m;
}

inline void unpack(const Q8_0& __restrict block, float* __restrict out) {
  const float d = block.d;
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(block.qs[j]);
}

struct ScaleMin {
  int scale, min;
};

// Twelve bytes hold eight pairs of six bits: the first four whole, the others as a nibble and two stray top
// bits.
inline ScaleMin scale_min(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4};
}

inline void unpack(const Q4_K& __restrict block, float* __restrict out) {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] = scale_min(block.scales, group);
    const float d = block.d * static_cast<float>(scale), m = block.dmin * static_cast<float>(min);
    const uint8_t* qs = block.qs + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l) out[group * 32 + l] = d * static_cast<float>(qs[l] >> shift & 15) - m;
  }
}

inline void unpack(const Q5_K& __restrict block, float* __restrict out) {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] = scale_min(block.scales, group);
    const float d = block.d * static_cast<float>(scale), m = block.dmin * static_cast<float>(min);
    const uint8_t* qs = block.qs + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int q = (qs[l] >> shift & 15) | (block.qh[l] >> group & 1) << 4;
      out[group * 32 + l] = d * static_cast<float>(q) - m;
    }
  }
}

inline void unpack(const Q6_K& __restrict block, float* __restrict out) {
  for (int group = 0; group < 16; ++group) {
    const float d = block.d * static_cast<float>(block.scales[group]);
    const int half = group / 8, run = group / 2 % 4, first = group % 2 * 16;
    const uint8_t* ql = block.ql + half * 64 + run % 2 * 32 + first;
    const uint8_t* qh = block.qh + half * 32 + first;
    for (int l = 0; l < 16; ++l) {
      const int q = (ql[l] >> (run / 2 * 4) & 15) | (qh[l] >> (run * 2) & 3) << 4;
      out[group * 16 + l] = d * static_cast<float>(q - 32);
    }
  }
}

inline void unpack(const Q2_K& __restrict block, float* __restrict out) {
  for (int group = 0; group < 16; ++group) {
    const float d = block.d * static_cast<float>(block.scales[group] & 15);
    const float m = block.dmin * static_cast<float>(block.scales[group] >> 4);
    const uint8_t* qs = block.qs + group / 8 * 32 + group % 2 * 16;
    const int shift = group / 2 % 4 * 2;
    for (int l = 0; l < 16; ++l) out[group * 16 + l] = d * static_cast<float>(qs[l] >> shift & 3) - m;
  }
}

// Scale j of Q3_K, -32 to 31: a nibble, and two bits of the last four bytes.
inline int signed_scale(const Q3_K& block, int j) {
  const int low = block.scales[j % 8] >> j / 8 * 4 & 15, high = block.scales[8 + j % 4] >> j / 4 * 2 & 3;
  return (low | high << 4) - 32;
}

inline void unpack(const Q3_K& __restrict block, float* __restrict out) {
  for (int group = 0; group < 16; ++group) {
    const float d = block.d * static_cast<float>(signed_scale(block, group));
    const int run = group / 2, first = group % 2 * 16;
    const uint8_t* qs = block.qs + run / 4 * 32 + first;
    for (int l = 0; l < 16; ++l) {
      const int q = (qs[l] >> run % 4 * 2 & 3) | (block.hmask[first + l] >> run & 1) << 2;
      out[group * 16 + l] = d * static_cast<float>(q - 4);
    }
  }
}

inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

inline void unpack(const IQ4_NL& __restrict block, float* __restrict out) {
  const float d = block.d;
  for (int half = 0; half < 2; ++half) {
    for (int j = 0; j < 16; ++j) {
      out[half * 16 + j] = d * static_cast<float>(kIq4Values[block.qs[j] >> half * 4 & 15]);
    }
  }
}

inline int signed_scale(const IQ4_XS& block, int j) {
  const int low = block.scales_l[j / 2] >> j % 2 * 4 & 15, high = block.scales_h[j / 4] >> j % 4 * 2 & 3;
  return (low | high << 4) - 32;
}

inline void unpack(const IQ4_XS& __restrict block, float* __restrict out) {
  for (int group = 0; group < 8; ++group) {
    const float d = block.d * static_cast<float>(signed_scale(block, group));
    for (int l = 0; l < 32; ++l) {
      const int code = block.qs[group * 16 + l % 16] >> l / 16 * 4 & 15;
      out[group * 32 + l] = d * static_cast<float>(kIq4Values[code]);
    }
  }
}

// E2M1, doubled: its scale is halved.
inline constexpr int8_t kE2M1Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(e - 128), the smallest two of them subnormal.
inline float halved_scale(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? uint32_t{0x00200000} << e : uint32_t{e - 1u} << 23);
}

inline void unpack(const MXFP4& __restrict block, float* __restrict out) {
  const float d = halved_scale(block.e);
  for (int half = 0; half < 2; ++half) {
    for (int j = 0; j < 16; ++j) {
      out[half * 16 + j] = d * static_cast<float>(kE2M1Values[block.qs[j] >> half * 4 & 15]);
    }
  }
}

}  // namespace pyllm::gguf
