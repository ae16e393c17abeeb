// One AdamW step (Loshchilov and Hutter, 2019) of many tensors, in place and in one pass:
//
//   g = grad_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = (1 - lr weight_decay) p - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
//
// Bytes per parameter, read and written: 28 in float; 22 with 16-bit parameters, 28 with a master copy too.
//
// Stochastic rounding (Gupta et al., "Deep learning with limited numerical precision", 2015): p is rounded up
// with a probability equal to the part of the last place that it is above, so that updates too small to be
// seen by a bfloat16 are kept on average. The noise is a function of seed, step and element alone.
#pragma once

#include <cmath>
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
  int64_t step;     // from 1
  bool stochastic;  // round a bfloat16 param without master stochastically
  uint64_t seed;
};

// The step's constants, worked out once in double.
struct Constants {
  double keep_m, take_m, keep_v, take_v;
  double decay, step_size, inverse_root_v, eps, grad_scale;
};

inline Constants constants_of(const Step& s) {
  const double steps = static_cast<double>(s.step);
  return {.keep_m = s.beta1,
          .take_m = 1 - s.beta1,
          .keep_v = s.beta2,
          .take_v = 1 - s.beta2,
          .decay = 1 - s.lr * s.weight_decay,
          .step_size = s.lr / (1 - std::pow(s.beta1, steps)),
          .inverse_root_v = 1 / std::sqrt(1 - std::pow(s.beta2, steps)),
          .eps = s.eps,
          .grad_scale = s.grad_scale};
}

// The tensors are cut into chunks of this many elements, about 450 KB of traffic, and the chunks of all of
// them are shared among the threads in one go: a model of 135M parameters has 272 tensors, and a call and a
// fork for each would take 5% of the step.
constexpr int64_t kChunk = 16384;

struct Kernels {
  // Elements [begin, begin + count) of one tensor; begin is a multiple of kChunk, count at most that.
  void (*run)(const Step&, const Constants&, int64_t begin, int64_t count);
};

extern const Kernels kernels_scalar;

void run(const Step* steps, int64_t count);

}  // namespace pyllm::adamw
