// What all vector kernels of linear share: where operands lie, and how sums leave.
#pragma once

#include "core/chains.h"
#include "core/levels.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

template <class T>
const T* at(const Operand& operand, int64_t i, int64_t k) {
  return static_cast<const T*>(operand.data) + i * operand.stride + k * operand.stride_k;
}

// out[row, column ...) = sum + bias
template <class T>
void finish(const Product& p, int64_t row, int64_t column, Vec sum, int64_t lanes) {
  if (p.bias) sum = sum + load_lanes(static_cast<const T*>(p.bias) + column, lanes);
  const int64_t at = row * p.out_stride + column;
  if (p.out_dtype == DType::f32) {
    store_lanes(static_cast<float*>(p.out) + at, sum, lanes);
  } else {
    store_lanes(static_cast<T*>(p.out) + at, sum, lanes);
  }
}

// The same for a tile of sums whose rows are `stride` floats apart.
template <class T>
void finish_tile(const Product& p, int64_t row, int64_t rows, int64_t column, int64_t columns,
                 const float* sums, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < columns; n += kLanes) {
      finish<T>(p, row + r, column + n, load(sums + r * stride + n), smaller(columns - n, kLanes));
    }
  }
}

}  // namespace
}  // namespace pyllm::linear
