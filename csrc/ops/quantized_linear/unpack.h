// A unit's codes (formats/packed_weight.h) to floats, one policy for each kind of code.
//
//   word = Policy::quad<Q>(unit, table, vec)   what holds the four inputs of quad Q for the vec-th kLanes
//   outputs Policy::value<Q, Byte>(word, table)        one input's values, times Policy::factor(Q, Byte)
//   bytes = Policy::bytes<Q>(unit, table, vec)         where codes are integers: the quad's four as bytes
//
// Codes stay at their place in the word where that saves a shift: a masked field is an integer, its
// conversion exact, and the activation it meets is divided by the same power of two beforehand. On AVX2 a
// nibble so costs three instructions with its multiply-add: mask, convert, multiply-add.
#pragma once

#include <utility>

#include "core/words.h"
#include "ops/quantized_linear/codec.h"

// Sums live in registers only where everything around them is one function.
#define PYLLM_INLINE __attribute__((always_inline))

namespace pyllm::quantized_linear {
namespace {

// f.template operator()<0>() ... <Count - 1>()
template <int Count, class F>
inline PYLLM_INLINE void unrolled(const F& f) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      PYLLM_INLINE { (f.template operator()<I>(), ...); }(std::make_integer_sequence<int, Count>{});
}

// The word of a plane of `Bits` that holds quad Q.
template <int Bits, int Q>
inline PYLLM_INLINE Words plane_word(const uint8_t* plane, int vec) {
  return load_words(plane + (Q / (8 / Bits) * kOutputs + vec * kLanes) * 4);
}

// Bytes of a quad's codes, shifted left by Left bits; only those bits are set.
template <int Bits, int Q, int Left>
inline PYLLM_INLINE Words quad_bytes(const uint8_t* plane, int vec) {
  constexpr int kShift = Q % (8 / Bits) * Bits - Left;
  constexpr uint32_t kMask = 0x01010101u * (((1u << Bits) - 1u) << Left);
  const Words word = plane_word<Bits, Q>(plane, vec);
  return (kShift >= 0 ? word >> (kShift >= 0 ? kShift : 0) : word << (kShift < 0 ? -kShift : 0)) & kMask;
}

// A byte of unsigned codes where it stands: 2^(8 Byte) times the code, the highest shifted down because its
// sign bit may be set.
template <int Byte>
inline PYLLM_INLINE Vec unsigned_byte(Words word) {
  if constexpr (Byte == 3) return float_of(word >> 24);
  return float_of(word & (0xffu << 8 * Byte));
}
constexpr float unsigned_factor(int byte) { return byte == 3 ? 1.0f : static_cast<float>(1 << 8 * byte); }

template <int Byte>
inline PYLLM_INLINE Vec signed_byte(Words word) {
  return float_of(reinterpret_cast<SignedWords>(word << (24 - 8 * Byte)) >> 24);
}

// 4 bits, integers: nibbles where they stand.
struct Nibbles {
  static constexpr int64_t kUnitBytes = 256, kSumQuads = kQuads;
  static constexpr ByteCodes kBytes = {.is_signed = false, .most = 15};
  static constexpr int shift(int q, int byte) { return 8 * byte + 4 * (q % 2); }
  static constexpr float factor(int q, int byte) {
    return shift(q, byte) == 28 ? 1.0f : static_cast<float>(1 << shift(q, byte));
  }
  template <int Q>
  static PYLLM_INLINE Words quad(const uint8_t* unit, const Table&, int vec) {
    return plane_word<4, Q>(unit, vec);
  }
  template <int Q>
  static PYLLM_INLINE Words bytes(const uint8_t* unit, const Table&, int vec) {
    return quad_bytes<4, Q, 0>(unit, vec);
  }
  template <int Q, int Byte>
  static PYLLM_INLINE Vec value(Words word, const Table&) {
    constexpr int kShift = shift(Q, Byte);
    if constexpr (kShift == 28) return float_of(word >> 28);
    return float_of(word & (15u << kShift));
  }
};

// Integers of 2, 3, 5 or 6 bits, unsigned: bytes from one or two planes. Scales of 2, 3 and 6 bits belong to
// 16 inputs.
template <int Bits>
struct SplitBits {
  static constexpr packed::Planes kPlanes = packed::planes_of(Bits);
  static constexpr int64_t kUnitBytes = 64 * Bits, kSumQuads = Bits == 5 ? kQuads : kQuads / 2;
  static constexpr ByteCodes kBytes = {.is_signed = false, .most = (1 << Bits) - 1};
  static constexpr float factor(int, int byte) { return unsigned_factor(byte); }
  template <int Q>
  static PYLLM_INLINE Words quad(const uint8_t* unit, const Table&, int vec) {
    const Words low = quad_bytes<kPlanes.low, Q, 0>(unit, vec);
    if constexpr (kPlanes.high > 0) {
      return low | quad_bytes<kPlanes.high, Q, kPlanes.low>(unit + 64 * kPlanes.low, vec);
    }
    return low;
  }
  template <int Q>
  static PYLLM_INLINE Words bytes(const uint8_t* unit, const Table& table, int vec) {
    return quad<Q>(unit, table, vec);
  }
  template <int Q, int Byte>
  static PYLLM_INLINE Vec value(Words word, const Table&) {
    return unsigned_byte<Byte>(word);
  }
};

// 8 bits, signed integers.
struct Bytes {
  static constexpr int64_t kUnitBytes = 512, kSumQuads = kQuads;
  static constexpr ByteCodes kBytes = {.is_signed = true, .most = 128};
  static constexpr float factor(int, int) { return 1.0f; }
  template <int Q>
  static PYLLM_INLINE Words quad(const uint8_t* unit, const Table&, int vec) {
    return plane_word<8, Q>(unit, vec);
  }
  template <int Q>
  static PYLLM_INLINE Words bytes(const uint8_t* unit, const Table& table, int vec) {
    return quad<Q>(unit, table, vec);
  }
  template <int Q, int Byte>
  static PYLLM_INLINE Vec value(Words word, const Table&) {
    return signed_byte<Byte>(word);
  }
};

// 4 bits that stand for signed bytes: 16 of them are looked up with one instruction.
struct NibblesOfBytes {
  static constexpr int64_t kUnitBytes = 256, kSumQuads = kQuads;
  static constexpr ByteCodes kBytes = {.is_signed = true, .most = 128};
  static constexpr float factor(int, int) { return 1.0f; }
  template <int Q>
  static PYLLM_INLINE Words quad(const uint8_t* unit, const Table& table, int vec) {
    return lookup_bytes(table.bytes, quad_bytes<4, Q, 0>(unit, vec));
  }
  template <int Q>
  static PYLLM_INLINE Words bytes(const uint8_t* unit, const Table& table, int vec) {
    return quad<Q>(unit, table, vec);
  }
  template <int Q, int Byte>
  static PYLLM_INLINE Vec value(Words word, const Table&) {
    return signed_byte<Byte>(word);
  }
};

// 4 bits that stand for floats.
struct NibblesOfFloats {
  static constexpr int64_t kUnitBytes = 256, kSumQuads = kQuads;
  static constexpr float factor(int, int) { return 1.0f; }
  template <int Q>
  static PYLLM_INLINE Words quad(const uint8_t* unit, const Table&, int vec) {
    return plane_word<4, Q>(unit, vec);
  }
  template <int Q, int Byte>
  static PYLLM_INLINE Vec value(Words word, const Table& table) {
    return lookup_floats<8 * Byte + 4 * (Q % 2)>(table.floats, word);
  }
};

// E4M3: the bits of a float with another bias. With exponent 0 there is no hidden one: it is taken off again.
struct Float8 {
  static constexpr int64_t kUnitBytes = 512, kSumQuads = kQuads;
  static constexpr float factor(int, int) { return 1.0f; }
  template <int Q>
  static PYLLM_INLINE Words quad(const uint8_t* unit, const Table&, int vec) {
    return plane_word<8, Q>(unit, vec);
  }
  template <int Q, int Byte>
  static PYLLM_INLINE Vec value(Words word, const Table&) {
    const Words top = word << (24 - 8 * Byte);  // the byte, in the highest place
    const Words magnitude = top >> 4 & 0x07f00000u;
    const Words subnormal = reinterpret_cast<Words>(magnitude < 0x00800000u);
    const Words nan = reinterpret_cast<Words>(magnitude == 0x07f00000u) & 0x7fc00000u;
    const Words bits = magnitude + (120u << 23) + (subnormal & 0x00800000u);
    const Vec value = reinterpret_cast<Vec>(bits) - reinterpret_cast<Vec>(subnormal & 0x3c800000u);  // 2^-6
    return reinterpret_cast<Vec>(reinterpret_cast<Words>(value) | (top & 0x80000000u) | nan);
  }
};

}  // namespace
}  // namespace pyllm::quantized_linear
