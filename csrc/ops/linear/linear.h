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
  void* out;         // (rows, columns), contiguous; may not overlap the operands
};

// The order of each element's sum depends on depth alone: not on rows, columns, position or threads.
struct Kernels {
  void (*product)(const Product&);
};

extern const Kernels kernels_scalar;

void product(const Product&);

}  // namespace pyllm::linear
