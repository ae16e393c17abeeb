// Sums of products of bytes: codes of 16 outputs, four neighbours of each side by side, times activations.
//
//   codes       | o0: k0 k1 k2 k3 | o1: k0 k1 k2 k3 | ...     a quad, 64 bytes
//   x           | x0 x1 x2 x3 |                               broadcast
//
// Without VNNI a multiply of bytes gives sums of two products in 16 bits. Codes of up to 6 bits are unsigned,
// and pairs of several quads are added before they are widened: two instructions for 32 products on AVX2,
// where floats take eight and as many conversions. Signed codes take four: |code|, and x with the code's
// sign.
#pragma once

#include "core/words.h"
#include "ops/quantized_linear/scales.h"
#include "ops/quantized_linear/unpack.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int64_t kQuadBytes = 4 * kOutputs;

// A unit's codes as bytes in memory, and as they are unpacked.
struct StoredBytes {
  const uint8_t* codes;

  template <int Q>
  PYLLM_INLINE Words quad(int vec) const {
    return load_words(codes + Q * kQuadBytes + vec * 4 * kLanes);
  }
};
template <class Policy>
struct PackedBytes {
  const uint8_t* unit;
  const Table& table;

  template <int Q>
  PYLLM_INLINE Words quad(int vec) const {
    return Policy::template bytes<Q>(unit, table, vec);
  }
};

// Rows of activations as bytes, `stride` bytes apart: a quad of a row in every lane.
struct ByteRows {
  const int8_t* bytes;
  int64_t stride;

  PYLLM_INLINE Words quad(int row, int q) const { return broadcast_word(bytes + row * stride + 4 * q); }
};

// Quads whose pairs of products, at most 2 * Most * 128 each, fit 16 bits together.
constexpr int quads_in_16_bits(int most) { return 32767 / (2 * most * 128); }

typedef int16_t Pairs __attribute__((vector_size(sizeof(Vec))));

#if defined(__AVX2__)

#if defined(__AVX512F__)
inline Pairs multiply_bytes(Words codes, Words x) {  // unsigned by signed
  return reinterpret_cast<Pairs>(
      _mm512_maddubs_epi16(reinterpret_cast<__m512i>(codes), reinterpret_cast<__m512i>(x)));
}
inline SignedWords widen(Pairs pairs) {
  return reinterpret_cast<SignedWords>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(pairs), _mm512_set1_epi16(1)));
}
inline Words magnitude(Words codes) {
  return reinterpret_cast<Words>(_mm512_abs_epi8(reinterpret_cast<__m512i>(codes)));
}
// x where the code is positive, -x where it is negative.
inline Words with_sign(Words x, Words codes) {
  const __m512i all = reinterpret_cast<__m512i>(x);
  return reinterpret_cast<Words>(_mm512_mask_sub_epi8(
      all, _mm512_movepi8_mask(reinterpret_cast<__m512i>(codes)), _mm512_setzero_si512(), all));
}
#else
inline Pairs multiply_bytes(Words codes, Words x) {
  return reinterpret_cast<Pairs>(
      _mm256_maddubs_epi16(reinterpret_cast<__m256i>(codes), reinterpret_cast<__m256i>(x)));
}
inline SignedWords widen(Pairs pairs) {
  return reinterpret_cast<SignedWords>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(pairs), _mm256_set1_epi16(1)));
}
inline Words magnitude(Words codes) {
  return reinterpret_cast<Words>(_mm256_abs_epi8(reinterpret_cast<__m256i>(codes)));
}
inline Words with_sign(Words x, Words codes) {
  return reinterpret_cast<Words>(
      _mm256_sign_epi8(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(codes)));
}
#endif

// sum += pairs, in the register that sum is in: GCC 12 would rather keep all products and add them in the
// end.
inline PYLLM_INLINE void add_to(Pairs& sum, Pairs pairs) {
#if !defined(PYLLM_SOFTWARE_AVX512)
  asm("vpaddw %1, %0, %0" : "+v"(sum) : "v"(pairs));
#else
  sum += pairs;
#endif
}

// Most: of the codes, or 0 where they are signed. sums (Rows x 16) += quads [First, First + Quads) of a unit;
// x.quad(row, q): a quad of a row of activations in every lane.
struct PairDots {
  static constexpr bool kIsFast = true;
  static constexpr int kOffset = 0;  // of signed codes

  template <int Most, int First, int Quads, int Rows, class Source, class X>
  static PYLLM_INLINE void add(const Source& source, const X& x, SignedWords (&sums)[Rows][kVecs]) {
    if constexpr (Most == 0) {
      add_signed<First, Quads>(source, x, sums);
    } else {
      constexpr int kStep = Quads < quads_in_16_bits(Most) ? Quads : quads_in_16_bits(Most);
      static_assert(Quads % kStep == 0);
      unrolled<Quads / kStep>([&]<int I>()
                                  PYLLM_INLINE { add_pairs<First + I * kStep, kStep>(source, x, sums); });
    }
  }

 private:
  template <int First, int Quads, int Rows, class Source, class X>
  static PYLLM_INLINE void add_pairs(const Source& source, const X& x, SignedWords (&sums)[Rows][kVecs]) {
    Pairs pairs[Rows][kVecs];
    unrolled<Quads>([&]<int I>() PYLLM_INLINE {
      Words codes[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) codes[v] = source.template quad<First + I>(v);
#pragma GCC unroll 24
      for (int r = 0; r < Rows; ++r) {
        const Words all = x.quad(r, First + I);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          const Pairs products = multiply_bytes(codes[v], all);
          if constexpr (I == 0) {
            pairs[r][v] = products;
          } else {
            add_to(pairs[r][v], products);
          }
        }
      }
    });
#pragma GCC unroll 24
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] += widen(pairs[r][v]);
    }
  }

  // |x| is at most 127, so that a pair of products with a code of -128 still fits 16 bits.
  template <int First, int Quads, int Rows, class Source, class X>
  static PYLLM_INLINE void add_signed(const Source& source, const X& x, SignedWords (&sums)[Rows][kVecs]) {
    unrolled<Quads>([&]<int I>() PYLLM_INLINE {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        const Words code = source.template quad<First + I>(v), size = magnitude(code);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const Words all = x.quad(r, First + I);
          sums[r][v] += widen(multiply_bytes(size, with_sign(all, code)));
        }
      }
    });
  }
};

#else

struct PairDots {
  static constexpr bool kIsFast = false;
  static constexpr int kOffset = 0;

  template <int Most, int First, int Quads, int Rows, class Source, class X>
  static void add(const Source& source, const X& x, SignedWords (&sums)[Rows][kVecs]) {
    unrolled<Quads>([&]<int I>() {
      for (int v = 0; v < kVecs; ++v) {
        const Words codes = source.template quad<First + I>(v);
        for (int i = 0; i < 4 * kLanes; ++i) {
          const uint32_t byte = codes[i / 4] >> 8 * (i % 4) & 255u;
          const int32_t code = Most == 0 ? static_cast<int8_t>(byte) : static_cast<int32_t>(byte);
          for (int r = 0; r < Rows; ++r) {
            sums[r][v][i / 4] += code * static_cast<int8_t>(x.quad(r, First + I)[0] >> 8 * (i % 4));
          }
        }
      }
    });
  }
};

#endif

}  // namespace
}  // namespace pyllm::quantized_linear
