// The two products of a block whose keys and values lie in ordinary tensors, a row a key, for tiles that use
// the block only once: packing it first (block_source.h) would cost more than the products.
//
//   scores   16 keys x 16 d's are transposed in registers, so that lanes are keys:
//            32 shuffles and 64 loads beside 16 multiply-adds for each row
//   sums     a row of values is a line of the right side as it lies
//
// Sums run in the order of block_products.h, so that bits do not depend on which of the two was taken.
#pragma once

#include "ops/attention/block_products.h"

namespace pyllm::attention {
namespace {

// `count` keys of a block and their values; strides in elements.
template <class T>
struct RowsView {
  const T *keys, *values;
  int64_t key_stride, value_stride, count;
  int64_t value_dim, value_width;
};

constexpr int64_t kRowsAhead = 16;  // keys, asked for in advance: heads may lie a row of the model apart

template <int Rows, class T>
[[maybe_unused]] void score_rows_tile(const float* queries, int64_t head_dim, float factor,
                                      const RowsView<T>& b, int64_t column, float* scores) {
  const T* from = b.keys + column * b.key_stride;
  const int64_t keys = clamp(b.count - column, 0, kLanes);
  Vec total[Rows] = {};
  for (int64_t d0 = 0; d0 < head_dim; d0 += kDotDepth) {
    Vec acc[Rows] = {};
    const int64_t end = smaller(head_dim, d0 + kDotDepth);
    for (int64_t d = d0; d < end; d += kLanes) {
      for (int64_t n = 0; n < keys; ++n) __builtin_prefetch(from + (n + kRowsAhead) * b.key_stride + d);
      const float* q = queries + d0 * kRows + (d - d0);
      const int64_t depth = smaller(kLanes, end - d);
      Vec x[kLanes];
      load_transposed(from + d, b.key_stride, keys, depth, x);
      const auto add = [&](int i) {
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) acc[r] = fma(set1(q[r * kDotDepth + i]), x[i], acc[r]);
      };
      if (depth == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) add(i);
      } else {
        for (int i = 0; i < depth; ++i) add(i);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) total[r] = d0 == 0 ? acc[r] : total[r] + acc[r];
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) store(scores + r * kScoreStride + column, total[r] * set1(factor));
}

template <class T>
[[maybe_unused]] void block_scores(const float* queries, int64_t rows, int64_t head_dim, float factor,
                                   const RowsView<T>& b, const Columns& c, float* scores) {
  for_each_row_tile<kRows>(rows, 0, [&](auto count, int64_t row) {
    for (int64_t column = c.first; column < c.last; column += kLanes) {
      score_rows_tile<decltype(count)::value>(queries + row * kDotDepth, head_dim, factor, b, column,
                                              scores + row * kScoreStride);
    }
  });
}

// Columns [0, columns) of `Vecs` vectors of the sums.
template <int Rows, int Vecs, class T>
[[maybe_unused]] void value_rows_tile(const float* weights, const T* values, int64_t stride, int64_t keys,
                                      int64_t columns, int64_t width, float* sums) {
  Vec acc[Rows][Vecs] = {};
  const int64_t last = smaller(kLanes, columns - (Vecs - 1) * kLanes);
  for (int64_t k = 0; k < keys; ++k) {
    Vec x[Vecs];
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) {
      const T* from = values + k * stride + v * kLanes;
      __builtin_prefetch(from + kRowsAhead * stride);
      x[v] = v + 1 < Vecs ? load(from) : load_lanes(from, last);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec y = set1(weights[r * kScoreStride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < Vecs; ++v) acc[r][v] = fma(y, x[v], acc[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) store(sums + r * width + v * kLanes, acc[r][v]);
  }
}

template <class T>
[[maybe_unused]] void block_sums(const float* weights, int64_t rows, const RowsView<T>& b, const Columns& c,
                                 int64_t last, float* sums) {
  const T* values = b.values + c.first * b.value_stride;
  for_each_row_tile<kRows>(rows, 0, [&](auto count, int64_t row) {
    constexpr int kCount = decltype(count)::value, kWide = kWideVecs<kCount>;
    const float* from = weights + row * kScoreStride + c.first;
    float* to = sums + row * b.value_width;
    int64_t column = 0;
    const auto tile = [&](auto vecs) {
      value_rows_tile<kCount, decltype(vecs)::value>(from, values + column, b.value_stride, last - c.first,
                                                     b.value_dim - column, b.value_width, to + column);
      column += decltype(vecs)::value * kLanes;
    };
    while (column + (kWide - 1) * kLanes < b.value_dim) tile(std::integral_constant<int, kWide>{});
    while (column < b.value_dim) tile(std::integral_constant<int, 1>{});
    for (int64_t r = 0; column < b.value_width && r < kCount; ++r) {
      for (int64_t i = column; i < b.value_width; i += kLanes) store(to + r * b.value_width + i, zero());
    }
  });
}

template <class T>
[[maybe_unused]] Vec value_at(const RowsView<T>& b, int64_t key, int64_t column) {
  return load_lanes(b.values + key * b.value_stride + column, clamp(b.value_dim - column, 0, kLanes));
}

}  // namespace
}  // namespace pyllm::attention
