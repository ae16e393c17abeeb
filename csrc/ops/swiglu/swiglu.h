// The elementwise half of a gated linear unit (Shazeer, 2020):  out = activation(gate) * up
//
//   silu       g * sigmoid(g)
//   gelu       g * Phi(g), Phi the normal distribution function
//   gelu_tanh  g * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 g^3))) / 2
//
// and a plain activation, the same without up: out = activation(gate).
//
// Tensors are (rows, columns), owned by the caller, of one dtype. Inputs are read at a row stride, so that
// gate and up may be the halves of one projection; outputs are contiguous.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::swiglu {

enum class Activation { silu, gelu, gelu_tanh };

struct Input {
  const void* data;
  int64_t row_stride;  // elements
};

struct Forward {
  DType dtype;
  Activation activation;
  int64_t rows, columns;
  Input gate, up;  // up.data null: a plain activation
  void* out;
};

struct Backward {
  DType dtype;
  Activation activation;
  int64_t rows, columns;
  Input grad_out, gate, up;  // up.data null: a plain activation
  void* grad_gate;
  void* grad_up;  // of a plain activation: activation(gate), which the next product's backward reads
};

struct Kernels {
  void (*forward)(const Forward&);
  void (*backward)(const Backward&);
};

extern const Kernels kernels_scalar;

void forward(const Forward&);
void backward(const Backward&);

// Constants of the tanh approximation.
constexpr double kSqrtTwoOverPi = 0.7978845608028654;
constexpr double kCubic = 0.044715;

}  // namespace pyllm::swiglu
