// Root-mean-square layer normalization (Zhang and Sennrich, 2019), optionally of a sum that is also returned.
//
//   h = x + residual                          (h = x without a residual; h is rounded to the tensor's dtype)
//   y = h / sqrt(mean(h^2) + eps) * (weight + weight_offset)
//
// All tensors are contiguous, (rows, columns) or (columns,), owned by the caller, of one dtype; rstd holds
// the accumulator type (double for f64, otherwise float).
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::rms_norm {

struct Forward {
  DType dtype;
  int64_t rows, columns;
  const void* x;
  const void* residual;  // may be null
  const void* weight;
  void* y;
  void* residual_out;  // h; null exactly when residual is null
  void* rstd;          // (rows,)
  double eps, weight_offset;
};

struct Backward {
  DType dtype;
  int64_t rows, columns;
  const void* grad_y;
  const void* grad_residual_out;  // added to grad_x; may be null
  const void* h;
  const void* weight;
  const void* rstd;
  void* grad_x;       // also the gradient of the residual
  void* grad_weight;  // (columns,)
  double weight_offset;
};

// Rows are independent. The weight gradient is summed in row order within parts fixed by the shape, and the
// parts in order, so that its bits do not depend on the number of threads.
struct Kernels {
  void (*forward)(const Forward&);
  void (*backward)(const Backward&);
};

extern const Kernels kernels_scalar;

void forward(const Forward&);
void backward(const Backward&);

}  // namespace pyllm::rms_norm
