// One AdamW step (Loshchilov and Hutter, 2019) of one tensor, in place and in one pass:
//
//   g = grad_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = (1 - lr weight_decay) p - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
//
// Bytes per parameter, read and written: 28 in float; 22 with 16-bit parameters, 28 with a master copy too.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::adamw {

struct Step {
  DType dtype;    // of param and grad
  int64_t count;  // elements; all arrays are dense and in the same order
  void* param;
  const void* grad;
  void* exp_avg;     // m; it, v and master are accumulators (double for f64, otherwise float)
  void* exp_avg_sq;  // v
  void* master;      // p at full precision, param being its rounding; may be null
  double lr, beta1, beta2, eps, weight_decay, grad_scale;
  int64_t step;  // from 1
};

// The step's constants, worked out once in double.
struct Constants {
  double keep_m, take_m, keep_v, take_v;
  double decay, step_size, inverse_root_v, eps, grad_scale;
};

struct Kernels {
  void (*step)(const Step&, const Constants&);
};

extern const Kernels kernels_scalar;

void step(const Step&);

}  // namespace pyllm::adamw
