#include <cmath>

#include "ops/swiglu/swiglu.h"

namespace pyllm::swiglu {
namespace {

// f(g) and its derivative.
struct Activated {
  double value, slope;
};

Activated activate(Activation activation, double g) {
  if (activation == Activation::gelu) {
    const double cdf = std::erfc(-g * std::sqrt(0.5)) / 2;
    const double density = std::exp(-g * g / 2) / std::sqrt(2 * M_PI);
    return {g * cdf, cdf + g * density};
  }
  // gelu_tanh is g * sigmoid(2 u) with u the tanh's argument, silu is g * sigmoid(g).
  const bool cubic = activation == Activation::gelu_tanh;
  const double argument = cubic ? 2 * kSqrtTwoOverPi * (g + kCubic * g * g * g) : g;
  const double argument_slope = cubic ? 2 * kSqrtTwoOverPi * (1 + 3 * kCubic * g * g) : 1;
  const double s = 1 / (1 + std::exp(-argument)), rest = 1 / (1 + std::exp(argument));
  return {g * s, s + (s * rest == 0 ? 0 : g * s * rest * argument_slope)};
}

template <class T>
double element(const Input& input, int64_t row, int64_t column) {
  return to_double(static_cast<const T*>(input.data)[row * input.row_stride + column]);
}

// up, or the one of a plain activation.
template <class T>
double factor(const Input& up, int64_t row, int64_t column) {
  return up.data ? element<T>(up, row, column) : 1.0;
}

template <class T>
void forward_as(const Forward& f) {
  for (int64_t row = 0; row < f.rows; ++row) {
    for (int64_t i = 0; i < f.columns; ++i) {
      const double value = activate(f.activation, element<T>(f.gate, row, i)).value;
      static_cast<T*>(f.out)[row * f.columns + i] = from_double<T>(value * factor<T>(f.up, row, i));
    }
  }
}

template <class T>
void backward_as(const Backward& b) {
  for (int64_t row = 0; row < b.rows; ++row) {
    for (int64_t i = 0; i < b.columns; ++i) {
      const Activated f = activate(b.activation, element<T>(b.gate, row, i));
      const double grad = element<T>(b.grad_out, row, i);
      static_cast<T*>(b.grad_gate)[row * b.columns + i] =
          from_double<T>(grad * factor<T>(b.up, row, i) * f.slope);
      static_cast<T*>(b.grad_up)[row * b.columns + i] = from_double<T>(b.up.data ? grad * f.value : f.value);
    }
  }
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Forward& f) { visit(f.dtype, [&](auto zero) { forward_as<decltype(zero)>(f); }); },
    [](const Backward& b) { visit(b.dtype, [&](auto zero) { backward_as<decltype(zero)>(b); }); },
};

}  // namespace pyllm::swiglu
