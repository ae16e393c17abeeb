// Layer normalization (Ba, Kiros and Hinton, 2016), optionally of a sum that is also returned.
//
//   h = x + residual                          (h = x without a residual; h is rounded to the tensor's dtype)
//   y = (h - mean(h)) / sqrt(variance(h) + eps) * weight + bias
//
// The variance is the mean of squared distances from the mean. All tensors are contiguous, (rows, columns) or
// (columns,), owned by the caller, of one dtype; mean and rstd hold the accumulator type (double for f64,
// otherwise float).
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::layer_norm {

struct Forward {
  DType dtype;
  int64_t rows, columns;
  const void* x;
  const void* residual;  // may be null
  const void* weight;
  const void* bias;  // may be null: zero
  void* y;
  void* residual_out;  // h; null exactly when residual is null
  void* mean;          // (rows,)
  void* rstd;          // (rows,)
  double eps;
};

struct Backward {
  DType dtype;
  int64_t rows, columns;
  const void* grad_y;
  const void* grad_residual_out;  // added to grad_x; may be null
  const void* h;
  const void* weight;
  const void* mean;
  const void* rstd;
  void* grad_x;       // also the gradient of the residual
  void* grad_weight;  // (columns,)
  void* grad_bias;    // (columns,)
};

// Rows are independent. The gradients of weight and bias are summed in row order within parts fixed by the
// shape, and the parts in order, so that their bits do not depend on the number of threads.
struct Kernels {
  void (*forward)(const Forward&);
  void (*backward)(const Backward&);
};

extern const Kernels kernels_scalar;

void forward(const Forward&);
void backward(const Backward&);

}  // namespace pyllm::layer_norm
