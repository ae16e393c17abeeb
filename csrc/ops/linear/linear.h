// The product behind a linear layer:  out[row, column] = sum over k of left[row, k] * right[column, k] +
// bias[column].
//
// Operands are read in place with any strides, so that one kernel serves a layer's three products. With x (M,
// in), weight (out, in) and grad_y (M, out), row-major:
//   forward      left = x            right = weight
//   grad_x       left = grad_y       right = weight transposed
//   grad_weight  left = grad_y^T     right = x transposed
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::linear {

// Element (i, k) is data[i * stride + k * stride_k]; strides in elements, never negative.
struct Operand {
  const void* data;
  int64_t stride, stride_k;
};

struct Product {
  DType dtype;      // of operands and bias; sums are kept in its accumulator type
  DType out_dtype;  // dtype, or f32 for the sums as they are
  int64_t rows, columns, depth;
  Operand left, right;
  const void* bias;  // (columns,); may be null
  void* out;         // (rows, columns); may not overlap the operands
  // right as pack() wrote it; may be null. A hint: results have the same bits, and a pack of another level or
  // of an operand that has visibly changed is passed over.
  const float* packed = nullptr;
  int64_t out_stride = 0;  // elements from row to row of out; 0: columns
};

// The order of each element's sum depends on depth, and on whether right is contiguous along the columns
// only: not on rows, columns, position or threads. pack(right, columns, depth, to) writes the right operand
// of float32 products as many rows want it, in packed_floats(right, columns, depth) floats; levels without it
// have null.
struct Kernels {
  void (*product)(const Product&);
  int64_t (*packed_floats)(const Operand& right, int64_t columns, int64_t depth) = nullptr;
  void (*pack)(const Operand& right, int64_t columns, int64_t depth, float* to) = nullptr;
};

extern const Kernels kernels_scalar;

void product(const Product&);

// Floats that pack() writes; 0 where this level keeps nothing for the dtype.
int64_t packed_floats(DType dtype, const Operand& right, int64_t columns, int64_t depth);
void pack(const Operand& right, int64_t columns, int64_t depth, float* to);

}  // namespace pyllm::linear
