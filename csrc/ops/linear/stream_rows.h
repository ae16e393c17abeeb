// Few rows against a right operand that is contiguous along the columns (grad x of a few tokens): memory sets
// the speed, so that right is read once, in long pieces of rows as they lie, and nothing of it is packed.
//
//   for parts of the columns                       parallel
//     for block of depth
//       for kTerms terms i ..                      of all chains, which are open at once, in the second-level
//         for chain                                cache: 16 x rows x part floats, at most 256 KB
//           chain[row] += left[row, k] * right[k, part]   for its k's of i ..: kTerms rows of right at a
//                                                         time, a chain comes and goes once for all of them
//       sums += chains, ascending
//     out = sums + bias, rounded once
//
// Pieces of rows are long because the hardware asks ahead along a row: where a piece ends, what it has asked
// for is lost.
#pragma once

#include "ops/linear/many_rows.h"

namespace pyllm::linear {
namespace {

constexpr int kStreamRows = 8;
constexpr int kTerms = 4;
constexpr int64_t kOpenFloats = 4096;  // of a chain: columns of a part x rows
constexpr int64_t kMostPart = 2048, kLeastPart = 256;
constexpr int64_t kPartStep = 32;
constexpr int64_t kStreamTasks = 4;

// `count` terms of one chain, whose rows of right are `step` apart: chain += left * right for Rows rows. The
// next chain's rows, each `row` behind one of these, are asked for.
template <int Rows, class T>
void stream_terms(const float* left, const T* right, int64_t row, int64_t step, int64_t left_step, int count,
                  int64_t width, float* chain, int64_t part) {
  for_each_vec(width, [&](int64_t n, int64_t lanes) {
    Vec sum[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) sum[r] = load(chain + r * part + n);
    const auto add = [&](int term) {
      __builtin_prefetch(right + term * step + n + row);
      const Vec w = load_lanes(right + term * step + n, lanes);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) sum[r] = fma(set1(left[term * left_step + r]), w, sum[r]);
    };
    if (count == kTerms) {
#pragma GCC unroll 4
      for (int term = 0; term < kTerms; ++term) add(term);
    } else {
      for (int term = 0; term < count; ++term) add(term);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) store(chain + r * part + n, sum[r]);
  });
}

// Adds one block of depth of Rows rows and `width` columns from `column` on to sums. left: Rows floats per k.
template <int Rows, class T>
void stream_block(const Product& p, const float* left, const Chains& chains, int64_t block, int64_t column,
                  int64_t width, float* open, float* sums) {
  const int64_t first = block * chains.depth(), rest = smaller(p.depth - first, chains.depth());
  const int64_t part = ceil_div(width, kLanes) * kLanes;
  for (int64_t i = 0; i < chains.count * Rows * part; i += kLanes) store(open + i, zero());
  const int64_t between = chains.stride == 1 ? chains.length : 1;  // k's from chain to chain
  for (int64_t i = 0; i < chains.length; i += kTerms) {
    for (int64_t j = 0; j < chains.count; ++j) {
      const int64_t k = j * between + i * chains.stride;
      const int64_t terms = smaller(smaller(chains.length - i, kTerms), ceil_div(rest - k, chains.stride));
      if (terms <= 0) continue;
      stream_terms<Rows>(left + (first + k) * Rows, at<T>(p.right, column, first + k), p.right.stride_k,
                         chains.stride * p.right.stride_k, chains.stride * Rows, static_cast<int>(terms),
                         width, open + j * Rows * part, part);
    }
  }
  for (int64_t n = 0; n < Rows * part; n += kLanes) {
    Vec sum = block == 0 ? load(open + n) : load(sums + n) + load(open + n);
    for (int64_t j = 1; j < chains.count; ++j) sum = sum + load(open + j * Rows * part + n);
    store(sums + n, sum);
  }
}

template <int Rows, class T>
void product_stream(const Product& p, const Chains& chains) {
  const int64_t least = ceil_div(p.columns, smaller(kOpenFloats / Rows, kMostPart));
  const int64_t parts = larger(least, smaller(kStreamTasks, p.columns / kLeastPart));
  const int64_t part = ceil_div(ceil_div(p.columns, parts), kPartStep) * kPartStep;
  const Scratch copied(p.depth * Rows);
  float* left = copied.get();
  for (int64_t k = 0; k < p.depth; ++k) {
    for (int64_t r = 0; r < Rows; ++r) {
      left[k * Rows + r] = r < p.rows ? to_accumulator(*at<T>(p.left, r, k)) : 0.0f;
    }
  }
  for_each_task(ceil_div(p.columns, part), (chains.count + 1) * part * Rows, [&](int64_t task, float* open) {
    const int64_t column = task * part, width = smaller(p.columns - column, part);
    float* sums = open + chains.count * part * Rows;
    for (int64_t b = 0; b < chains.blocks; ++b) {
      stream_block<Rows, T>(p, left, chains, b, column, width, open, sums);
    }
    finish_tile<T>(p, 0, p.rows, column, width, sums, ceil_div(width, kLanes) * kLanes);
  });
}

// For the fewest rows that hold those of p.
template <class T, int Rows = 1>
void product_stream_rows(const Product& p, const Chains& chains) {
  if constexpr (Rows < kStreamRows) {
    if (p.rows > Rows) return product_stream_rows<T, 2 * Rows>(p, chains);
  }
  product_stream<Rows, T>(p, chains);
}

}  // namespace
}  // namespace pyllm::linear
