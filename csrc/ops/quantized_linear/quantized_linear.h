// The product behind a linear layer whose weight is quantized (formats/packed_weight.h), computed from its
// codes; no dequantized copy of the weight is made.
//
//   forward   out[row, output] = sum over inputs of x[row, input] * weight[output, input] + bias[output]
//   grad_x    out[row, input]  = sum over outputs of grad_y[row, output] * weight[output, input]
//
// Activations keep their precision: codes are multiplied by them as floats, or as numbers of 24 bits that
// share a scale for 32 inputs, block by block in one order, and each block's sum by its scale. A row's bits
// depend on the weight and on itself alone: not on the other rows, their number, or threads.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "formats/packed_weight.h"

namespace pyllm::quantized_linear {

struct Product {
  DType dtype;  // of left, bias and out
  int64_t rows;
  const void* left;  // x or grad_y; rows `stride` elements apart, each contiguous
  int64_t stride;
  packed::Weight weight;
  const void* bias;  // (outputs,), null for none and in grad_x
  void* out;         // contiguous; may not overlap the operands
};

// Several products of one dtype are one parallel loop, each with the bits that it has alone: gate and up, or
// the experts of a layer. Neighbours that read the same x, from weights of one format, prepare it once.
struct Kernels {
  void (*forward)(const Product* products, int64_t count);
  void (*grad_x)(const Product* products, int64_t count);
};

extern const Kernels kernels_scalar;

void forward(const Product* products, int64_t count);
void grad_x(const Product* products, int64_t count);
inline void forward(const Product& p) { forward(&p, 1); }
inline void grad_x(const Product& p) { grad_x(&p, 1); }

}  // namespace pyllm::quantized_linear
