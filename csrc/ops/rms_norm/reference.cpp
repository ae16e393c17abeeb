#include <cmath>
#include <vector>

#include "ops/rms_norm/rms_norm.h"

namespace pyllm::rms_norm {
namespace {

template <class T>
void forward_as(const Forward& f) {
  for (int64_t row = 0; row < f.rows; ++row) {
    const T* h = static_cast<const T*>(f.x) + row * f.columns;
    if (f.residual) {
      const T* residual = static_cast<const T*>(f.residual) + row * f.columns;
      T* sum = static_cast<T*>(f.residual_out) + row * f.columns;
      for (int64_t i = 0; i < f.columns; ++i) {
        sum[i] = from_double<T>(to_double(h[i]) + to_double(residual[i]));
      }
      h = sum;
    }
    double squares = 0;
    for (int64_t i = 0; i < f.columns; ++i) squares += to_double(h[i]) * to_double(h[i]);
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(f.columns) + f.eps);
    static_cast<Accumulator<T>*>(f.rstd)[row] = static_cast<Accumulator<T>>(rstd);
    const T* weight = static_cast<const T*>(f.weight);
    T* y = static_cast<T*>(f.y) + row * f.columns;
    for (int64_t i = 0; i < f.columns; ++i) {
      const double gain = to_double(weight[i]) + f.weight_offset;
      y[i] = from_double<T>(to_double(h[i]) * rstd * gain);
    }
  }
}

// With n = h * rstd and g = grad_y * gain:  grad_h = rstd * (g - n * mean(g * n)),  grad_weight = sum of
// grad_y * n.
template <class T>
void backward_as(const Backward& b) {
  const T* weight = static_cast<const T*>(b.weight);
  std::vector<double> grad_weight(static_cast<size_t>(b.columns));
  for (int64_t row = 0; row < b.rows; ++row) {
    const T* grad_y = static_cast<const T*>(b.grad_y) + row * b.columns;
    const T* h = static_cast<const T*>(b.h) + row * b.columns;
    T* grad_x = static_cast<T*>(b.grad_x) + row * b.columns;
    const double rstd = static_cast<const Accumulator<T>*>(b.rstd)[row];
    double mean = 0;
    for (int64_t i = 0; i < b.columns; ++i) {
      const double n = to_double(h[i]) * rstd, dy = to_double(grad_y[i]);
      grad_weight[static_cast<size_t>(i)] += dy * n;
      mean += dy * (to_double(weight[i]) + b.weight_offset) * n;
    }
    mean /= static_cast<double>(b.columns);
    for (int64_t i = 0; i < b.columns; ++i) {
      const double n = to_double(h[i]) * rstd;
      const double g = to_double(grad_y[i]) * (to_double(weight[i]) + b.weight_offset);
      double grad = rstd * (g - n * mean);
      if (b.grad_residual_out) {
        grad += to_double(static_cast<const T*>(b.grad_residual_out)[row * b.columns + i]);
      }
      grad_x[i] = from_double<T>(grad);
    }
  }
  for (int64_t i = 0; i < b.columns; ++i) {
    static_cast<T*>(b.grad_weight)[i] = from_double<T>(grad_weight[static_cast<size_t>(i)]);
  }
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Forward& f) { visit(f.dtype, [&](auto zero) { forward_as<decltype(zero)>(f); }); },
    [](const Backward& b) { visit(b.dtype, [&](auto zero) { backward_as<decltype(zero)>(b); }); },
};

}  // namespace pyllm::rms_norm
