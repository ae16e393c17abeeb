// Rows of bf16 rearranged into the operands of tile products, 32 elements of a row at a time.
//
//   columns   16 rows side by side: [dim / 2][16 rows][2], B of a product over the dimension
//   pairs     two rows side by side: [rows / 2][dim][2],    B of a product over the rows
//   rows      as they are, A of a product over the dimension; transposed, A of a product over the rows
//
// Everything is padded with zeros: dimensions to 32, rows to what the caller asks for.
#pragma once

#include "core/amx_tiles.h"
#include "core/transpose.h"
#include "ops/attention/geometry.h"

namespace pyllm::attention {
namespace {

constexpr int64_t kDims = 32;  // dimensions are padded to this: a step of k, or two tile columns

[[maybe_unused]] constexpr int64_t padded(int64_t dim) { return ceil_div(dim, kDims) * kDims; }

// Rows [0, count) are source(i), a pointer to `dim` elements; null and further rows are zeros.
template <class Source>
struct RowsOf {
  const Source& source;
  int64_t count, dim;

  __m512i load(int64_t row, int64_t d) const {
    const bfloat16* from = row < count ? source(row) : nullptr;
    if (!from) return _mm512_setzero_si512();
    const int64_t left = clamp(dim - d, 0, kDims);
    const auto lanes = static_cast<__mmask32>((uint64_t{1} << left) - 1);
    return _mm512_maskz_loadu_epi16(lanes, from + d);
  }
};
template <class Source>
RowsOf(const Source&, int64_t, int64_t) -> RowsOf<Source>;

// Infinity and NaN become zero: for sums in which a zero weight must wipe out whatever it meets.
[[maybe_unused]] inline __m512i without_non_finite(__m512i x) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  return _mm512_maskz_mov_epi16(_mm512_cmpneq_epi16_mask(_mm512_and_si512(x, exponent), exponent), x);
}

[[maybe_unused]] inline void transpose_words(__m512i (&x)[kLanes]) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = _mm512_castsi512_ps(x[i]);
  transpose(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) x[i] = _mm512_castps_si512(rows[i]);
}

// 16 rows from `first` on, as columns.
template <class Source>
[[maybe_unused]] void pack_columns(const RowsOf<Source>& rows, int64_t first, bfloat16* to) {
  for (int64_t d = 0; d < rows.dim; d += kDims) {
    __m512i x[kLanes];
    for (int i = 0; i < kLanes; ++i) x[i] = rows.load(first + i, d);
    transpose_words(x);
    for (int i = 0; i < kLanes; ++i) _mm512_store_si512(to + (d + 2 * i) * kLanes, x[i]);
  }
}

// Elements 0 to 15 and 16 to 31 of two rows, side by side.
struct Pairs {
  __m512i low, high;
};
[[maybe_unused]] inline Pairs interleave(__m512i even, __m512i odd) {
  const __m512i a = _mm512_unpacklo_epi16(even, odd), b = _mm512_unpackhi_epi16(even, odd);
  return {_mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b),
          _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b)};
}

// Rows [0, padded_count) as pairs of `width` columns, a multiple of 16.
template <class Source>
[[maybe_unused]] void pack_pairs(const RowsOf<Source>& rows, int64_t padded_count, int64_t width,
                                 bool finite_only, bfloat16* to) {
  for (int64_t row = 0; row < padded_count; row += 2) {
    bfloat16* pair = to + row * width;
    for (int64_t d = 0; d < width; d += kDims) {
      __m512i even = rows.load(row, d), odd = rows.load(row + 1, d);
      if (finite_only) even = without_non_finite(even), odd = without_non_finite(odd);
      const Pairs x = interleave(even, odd);
      _mm512_store_si512(pair + d * 2, x.low);
      if (d + kDims <= width) _mm512_store_si512(pair + d * 2 + kDims, x.high);
    }
  }
}

// Pairs of `count` rows (a multiple of 32), transposed: to[d * count + row].
[[maybe_unused]] inline void transpose_pairs(const bfloat16* pairs, int64_t count, int64_t width,
                                             bfloat16* to) {
  for (int64_t row = 0; row < count; row += kAmxDepth) {
    for (int64_t d = 0; d < width; d += kLanes) {
      __m512i x[kLanes];
      for (int i = 0; i < kLanes; ++i) x[i] = _mm512_load_si512(pairs + (row + 2 * i) * width + d * 2);
      transpose_words(x);
      for (int i = 0; i < kLanes; ++i) _mm512_store_si512(to + (d + i) * count + row, x[i]);
    }
  }
}

// Rows [0, padded_count), `width` (a multiple of 32) elements apart.
template <class Source>
[[maybe_unused]] void copy_rows(const RowsOf<Source>& rows, int64_t padded_count, int64_t width,
                                bfloat16* to) {
  for (int64_t row = 0; row < padded_count; ++row) {
    for (int64_t d = 0; d < width; d += kDims) _mm512_store_si512(to + row * width + d, rows.load(row, d));
  }
}

// Floats to bf16, rounded to nearest even: 32 columns of a row, or a pair of rows of 16 columns.
#if defined(__AVX512BF16__)
[[maybe_unused]] inline __m512i to_row(Vec low, Vec high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}
[[maybe_unused]] inline __m512i to_pair(Vec even, Vec odd) {
  const __m512i side_by_side = to_row(even, odd);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, side_by_side);
}
#else
[[maybe_unused]] inline __m512i to_row(Vec low, Vec high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(to_bf16_bits(low)), to_bf16_bits(high), 1);
}
[[maybe_unused]] inline __m512i to_pair(Vec even, Vec odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(to_bf16_bits(even)),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16_bits(odd)), 16));
}
#endif

}  // namespace
}  // namespace pyllm::attention
