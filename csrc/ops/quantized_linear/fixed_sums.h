// Sums of one chunk over fixed-point activations (fixed_activations.h): unsigned codes of up to 5 bits times
// bytes, exact in integers, met by their scales once for each 32 inputs (16 where scales belong to 16):
//
//   for sum of the inputs that share a scale, at most 256
//     for unit of 32 inputs (16)
//       high, middle, low = sums of code * byte of x                 integers, the same in any order
//       t = t + scale of x * (high + middle / 2^8 + low / 2^16)
//     finish_sum (sums.h)
//
// AVX2 counts for 64 codes and one row: 3 instructions to unpack, 6 to multiply, 6 to add, where floats take
// 8 to mask, 8 to convert and 8 to multiply-add.
#pragma once

#include "ops/quantized_linear/byte_dots.h"
#include "ops/quantized_linear/sums.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int kDigits = 3;  // the lowest first

// Codes for which it is taken: of more bits, products must be widened so often that floats are as fast. Wider
// vectors have not been timed.
template <class Policy>
constexpr bool has_fixed() {
  if constexpr (requires { Policy::kBytes; }) {
    return PairDots::kIsFast && kLanes == 8 && !Policy::kBytes.is_signed && Policy::kBytes.most <= 31;
  }
  return false;
}

// Digits of rows as PairDots reads them: the digits of a row are rows of their own.
struct DigitRows {
  const int8_t* digits;

  PYLLM_INLINE Words quad(int row, int q) const {
    return broadcast_word(digits + row / kDigits * sizeof(FixedChunk) + 16 * q + 4 * (row % kDigits));
  }
};

// t += quads [First, First + Count) of one unit; x: the first row's.
template <int Most, int First, int Count, int Rows, class Source>
inline PYLLM_INLINE void add_fixed_unit(const Source& source, const FixedChunk* x, int64_t unit,
                                        Vec (&t)[Rows][kVecs]) {
  SignedWords sums[kDigits * Rows][kVecs] = {};
  PairDots::add<Most, First, Count>(source, DigitRows{x->digits + unit * kInputs * 4}, sums);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const auto digit = [&](int i) PYLLM_INLINE { return float_of(sums[kDigits * r + i][v]); };
      const Vec number = fma(fma(digit(0), set1(0x1p-8f), digit(1)), set1(0x1p-8f), digit(2));
      t[r][v] = fma(set1(x[r].scales[unit]), number, t[r][v]);
    }
  }
}

// out (Rows x 16) += one chunk, in sums of SumQuads quads or of by.sum_units units. source_at(unit): its
// codes.
template <int Most, int SumQuads, int Rows, class SourceAt>
inline PYLLM_INLINE void add_fixed_tile(const SourceAt& source_at, int64_t units, const Scaling& by,
                                        const FixedChunk* x, float* out) {
  constexpr int64_t kRowFloats = sizeof(FixedChunk) / sizeof(float);
  for (int64_t unit = 0, sum = 0; unit < units;) {
    if constexpr (SumQuads == kQuads) {
      const int64_t next = unit + by.sum_units, end = next < units ? next : units;
      Vec t[Rows][kVecs] = {};
      for (; unit < end; ++unit) add_fixed_unit<Most, 0, kQuads>(source_at(unit), x, unit, t);
      finish_sum<Rows, kVecs>(t, by, sum++, x->minus_totals, kRowFloats, out, kOutputs);
    } else {
      const auto source = source_at(unit);
      unrolled<kQuads / SumQuads>([&]<int Part>() PYLLM_INLINE {
        Vec t[Rows][kVecs] = {};
        add_fixed_unit<Most, Part * SumQuads, SumQuads>(source, x, unit, t);
        finish_sum<Rows, kVecs>(t, by, sum++, x->minus_totals, kRowFloats, out, kOutputs);
      });
      ++unit;
    }
  }
}

}  // namespace
}  // namespace pyllm::quantized_linear
