// One linear layer per expert over rows sorted by expert: rows [offsets[e], offsets[e + 1]) belong to expert
// e. Every expert's product is that of ops/linear or ops/quantized_linear, to the bit; all of them are one
// parallel loop.
//
//   product       out[row] = weight of the row's expert * left[row]
//   grad_weight   out[expert] = sum over the expert's rows of grad_y[row] * x[row]^T
//
// The gradient of x is a product again: of grad_y, with the weights transposed.
#pragma once

#include <cstdint>

#include "formats/packed_weight.h"
#include "ops/linear/linear.h"

namespace pyllm::grouped_linear {

struct Groups {
  int64_t experts;
  const int64_t* offsets;  // (experts + 1,), ascending from 0

  int64_t first(int64_t expert) const { return offsets[expert]; }
  int64_t rows(int64_t expert) const { return offsets[expert + 1] - offsets[expert]; }
};

struct Product {
  DType dtype;
  Groups groups;
  int64_t columns, depth;
  linear::Operand left;   // (rows, depth)
  linear::Operand right;  // (columns, depth) of the first expert
  int64_t expert_stride;  // elements from an expert's right to the next one's
  void* out;              // (rows, columns), contiguous; may not overlap the operands
};

struct WeightGradient {
  DType dtype;
  Groups groups;
  int64_t outputs, inputs;
  const void* grad_y;  // (rows, outputs), contiguous
  const void* x;       // (rows, inputs), contiguous
  void* out;           // (experts, outputs, inputs), contiguous; zeros where an expert has no rows
};

struct QuantizedProduct {
  DType dtype;
  Groups groups;
  const packed::Weight* weights;  // one per expert, all of one shape
  const void* left;               // x or grad_y, contiguous
  void* out;                      // contiguous
};

void product(const Product&);
void grad_weight(const WeightGradient&);

void forward(const QuantizedProduct&);
void grad_x(const QuantizedProduct&);

}  // namespace pyllm::grouped_linear
