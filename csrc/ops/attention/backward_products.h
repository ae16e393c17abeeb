// The products of the backward pass, in registers: C (+)= A B with C in tiles of 12 rows x 2 vectors (6 x 2
// with 16 registers), one broadcast of A and two vectors of B per term.
//
//   scores   Q K^T, grad_out V^T    rows x keys    A rows in place      B packed in panels, once a block
//   grad_q   dS K                   rows x dims    A rows in place      B rows in place
//   grad_k   dS^T Q                 keys x dims    A read in columns    B rows in place
//   grad_v   P^T grad_out           keys x dims    A read in columns    B rows in place
//
// Read in columns, a term's 12 elements lie side by side as in rows they lie a stride apart: no transposed
// copy is made. A sum is chains of at most 128 terms, each from zero over ascending terms, added in order.
#pragma once

#include "ops/attention/block_products.h"

namespace pyllm::attention {
namespace {

constexpr int64_t kChain = 128;

// The left operand, transposed in place: element (row, k) is data[k * stride + row].
struct InColumns {
  const float* data;
  int64_t stride;
  const float* at(int64_t row, int64_t k) const { return data + k * stride + row; }
  InColumns from(int64_t row, int64_t k) const { return {at(row, k), stride}; }
};

// The right operand: element (k, n) is data[n / kPanel * panel + k * stride + n % kPanel], so that `panel` is
// kPanel where rows lie in place.
struct Right {
  const float* data;
  int64_t stride, panel;
};

template <int Rows, int Vecs, class Left>
[[maybe_unused]] void product_tile(const Left& a, const float* b, int64_t b_stride, int64_t depth,
                                   bool accumulate, float* c, int64_t c_stride) {
  Vec acc[Rows][Vecs] = {};
  for (int64_t k = 0; k < depth; ++k, b += b_stride) {
    Vec x[Vecs];
#pragma GCC unroll 2
    for (int v = 0; v < Vecs; ++v) x[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec y = set1(*a.at(r, k));
#pragma GCC unroll 2
      for (int v = 0; v < Vecs; ++v) acc[r][v] = fma(y, x[v], acc[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < Vecs; ++v) {
      float* to = c + r * c_stride + v * kLanes;
      store(to, accumulate ? load(to) + acc[r][v] : acc[r][v]);
    }
  }
}

// `rows` rows of C, at most kRows, and one panel: columns [column, column + kPanel), or fewer whole vectors
// at the end. Terms [first, last); chains end at multiples of kChain.
template <class Left>
[[maybe_unused]] void product_strip(const Left& a, int64_t rows, const Right& b, int64_t column,
                                    int64_t columns, int64_t first, int64_t last, bool accumulate, float* c,
                                    int64_t c_stride) {
  for (int64_t k = first; k < last || (k == first && !accumulate);) {
    const int64_t end = smaller(last, (k / kChain + 1) * kChain);
    const float* right = b.data + column / kPanel * b.panel + k * b.stride;
    const bool add = accumulate || k > first;
    for_each_row_tile<kRows>(rows, 0, [&](auto count, int64_t row) {
      constexpr int kCount = decltype(count)::value;
      float* to = c + row * c_stride + column;
      if (columns - column > kLanes) {
        product_tile<kCount, kPanelVecs>(a.from(row, k), right, b.stride, end - k, add, to, c_stride);
      } else {
        product_tile<kCount, 1>(a.from(row, k), right, b.stride, end - k, add, to, c_stride);
      }
    });
    k = end > k ? end : k + 1;
  }
}

}  // namespace
}  // namespace pyllm::attention
