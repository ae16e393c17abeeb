// Few rows against a right operand that is contiguous along k (decoding): memory sets the speed, so that the
// right operand is read once, where it lies, and nothing is packed.
//
//   for group of kLanes columns                            parallel
//     for block of depth
//       for 4 columns, for at most kDotRows rows of left   4 x kDotRows accumulators; their lanes are chains
//         acc += left[row, k ..] * right[column, k ..]     kLanes k's at a time
//       per row: kLanes accumulators transposed,           now the lanes are columns
//                added to the row's sums, chain by chain
//     out = sums + bias, rounded once
//
// Per element of right and row: one multiply-add per kLanes elements, and 1 / chain length of a transpose.
#pragma once

#include "ops/linear/finish.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kFewRows = 16;
constexpr int kDotRows = kVectorRegisters == 32 ? 4 : 3;
constexpr int kDotColumns = 4;

// The accumulators of one block: kLanes columns of every row, a vector of chains each.
using Chained = float[kFewRows][kLanes][kLanes];

// Rows x Columns accumulators over one block's `depth` k's. Ahead: asks for the next columns' k's, because at
// the end of a row the hardware loses its way.
template <int Rows, int Columns, bool Ahead, class T>
void dot_tile(const float* left, int64_t left_stride, const T* right, int64_t right_stride, int64_t depth,
              float* chained) {
  Vec acc[Rows][Columns] = {};
  const auto step = [&](int64_t k, int64_t lanes) {
    Vec x[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) x[r] = load(left + r * left_stride + k);
#pragma GCC unroll 4
    for (int n = 0; n < Columns; ++n) {
      if constexpr (Ahead) __builtin_prefetch(right + (Columns + n) * right_stride + k, 0, 2);
      const Vec w = load_lanes(right + n * right_stride + k, lanes);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) acc[r][n] = fma(x[r], w, acc[r][n]);
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) step(k, int64_t{kLanes});
  if (k < depth) step(k, depth - k);
  for (int r = 0; r < Rows; ++r) {
    for (int n = 0; n < Columns; ++n) store(chained + (r * kLanes + n) * kLanes, acc[r][n]);
  }
}

// All rows against `Columns` columns.
template <int Columns, int Rows = kDotRows, bool Ahead = true, class T>
void dot_rows(const float* left, int64_t left_stride, int64_t rows, const T* right, int64_t right_stride,
              int64_t depth, float* chained) {
  if (rows >= Rows) {
    dot_tile<Rows, Columns, Ahead>(left, left_stride, right, right_stride, depth, chained);
    return dot_rows<Columns, Rows, false>(left + Rows * left_stride, left_stride, rows - Rows, right,
                                          right_stride, depth, chained + Rows * kLanes * kLanes);
  }
  if constexpr (Rows > 1) {
    if (rows > 0) {
      dot_rows<Columns, Rows / 2, Ahead>(left, left_stride, rows, right, right_stride, depth, chained);
    }
  }
}

// sums (+)= the chains of kLanes columns, in order.
inline Vec add_chains(const float (&chained)[kLanes][kLanes], bool first, Vec sums) {
  Vec chains[kLanes];
#pragma GCC unroll 16
  for (int n = 0; n < kLanes; ++n) chains[n] = load(chained[n]);
  transpose(chains);
  sums = first ? chains[0] : sums + chains[0];
#pragma GCC unroll 16
  for (int j = 1; j < kLanes; ++j) sums = sums + chains[j];
  return sums;
}

// out[:, column ... column + lanes)
template <class T>
void product_group(const Product& p, const float* left, const Chains& chains, int64_t column, int64_t lanes) {
  alignas(kCacheLine) Chained chained;
  alignas(kCacheLine) float sums[kFewRows][kLanes];
  const int64_t stride = chains.padded_depth();
  for (int64_t b = 0; b < chains.blocks; ++b) {
    const int64_t k = b * chains.depth(), depth = smaller(p.depth - k, chains.depth());
    int64_t n = 0;
    for (; n + kDotColumns <= lanes; n += kDotColumns) {
      dot_rows<kDotColumns>(left + k, stride, p.rows, at<T>(p.right, column + n, k), p.right.stride, depth,
                            chained[0][n]);
    }
    for (; n < lanes; ++n) {
      dot_rows<1>(left + k, stride, p.rows, at<T>(p.right, column + n, k), p.right.stride, depth,
                  chained[0][n]);
    }
    for (int64_t r = 0; r < p.rows; ++r) {
      store(sums[r], add_chains(chained[r], b == 0, load(sums[r])));
    }
  }
  for (int64_t r = 0; r < p.rows; ++r) finish<T>(p, r, column, load(sums[r]), lanes);
}

template <class T>
void product_few_rows(const Product& p, const Chains& chains) {
  const int64_t stride = chains.padded_depth();
  const Scratch left(p.rows * stride);
  for (int64_t row = 0; row < p.rows; ++row) {
    float* to = left.get() + row * stride;
    if (p.left.stride_k == 1) {
      to_float(at<T>(p.left, row, 0), to, p.depth);
    } else {
      for (int64_t k = 0; k < p.depth; ++k) to[k] = to_accumulator(*at<T>(p.left, row, k));
    }
    for (int64_t k = p.depth; k < stride; ++k) to[k] = 0.0f;
  }
  const int64_t grain = 1 + (1 << 14) / p.depth / kLanes;  // 16384 elements of right pay for a fork
  parallel_for(0, ceil_div(p.columns, kLanes), grain, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t column = group * kLanes;
      product_group<T>(p, left.get(), chains, column, smaller(p.columns - column, kLanes));
    }
  });
}

}  // namespace
}  // namespace pyllm::linear
