#include <cmath>
#include <vector>

#include "ops/layer_norm/layer_norm.h"

namespace pyllm::layer_norm {
namespace {

template <class T>
void forward_as(const Forward& f) {
  const T *weight = static_cast<const T*>(f.weight), *bias = static_cast<const T*>(f.bias);
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
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < f.columns; ++i) mean += to_double(h[i]);
    mean /= static_cast<double>(f.columns);
    for (int64_t i = 0; i < f.columns; ++i) {
      variance += (to_double(h[i]) - mean) * (to_double(h[i]) - mean);
    }
    variance /= static_cast<double>(f.columns);
    const double rstd = 1 / std::sqrt(variance + f.eps);
    static_cast<Accumulator<T>*>(f.mean)[row] = static_cast<Accumulator<T>>(mean);
    static_cast<Accumulator<T>*>(f.rstd)[row] = static_cast<Accumulator<T>>(rstd);
    T* y = static_cast<T*>(f.y) + row * f.columns;
    for (int64_t i = 0; i < f.columns; ++i) {
      const double normalized = (to_double(h[i]) - mean) * rstd;
      y[i] = from_double<T>(normalized * to_double(weight[i]) + (bias ? to_double(bias[i]) : 0));
    }
  }
}

// With n = (h - mean) rstd and g = grad_y * weight:  grad_h = rstd (g - mean(g) - n mean(g n)),
// grad_weight = sum of grad_y n,  grad_bias = sum of grad_y.
template <class T>
void backward_as(const Backward& b) {
  const T* weight = static_cast<const T*>(b.weight);
  const auto columns = static_cast<size_t>(b.columns);
  std::vector<double> grad_weight(columns), grad_bias(columns), normalized(columns);
  for (int64_t row = 0; row < b.rows; ++row) {
    const T* grad_y = static_cast<const T*>(b.grad_y) + row * b.columns;
    const T* h = static_cast<const T*>(b.h) + row * b.columns;
    const double mean = static_cast<const Accumulator<T>*>(b.mean)[row];
    const double rstd = static_cast<const Accumulator<T>*>(b.rstd)[row];
    double mean_g = 0, mean_gn = 0;
    for (size_t i = 0; i < columns; ++i) {
      normalized[i] = (to_double(h[i]) - mean) * rstd;
      const double dy = to_double(grad_y[i]), g = dy * to_double(weight[i]);
      grad_weight[i] += dy * normalized[i];
      grad_bias[i] += dy;
      mean_g += g;
      mean_gn += g * normalized[i];
    }
    mean_g /= static_cast<double>(b.columns);
    mean_gn /= static_cast<double>(b.columns);
    const T* passed = static_cast<const T*>(b.grad_residual_out);
    for (size_t i = 0; i < columns; ++i) {
      const double g = to_double(grad_y[i]) * to_double(weight[i]);
      const size_t at = static_cast<size_t>(row) * columns + i;
      const double grad = rstd * (g - mean_g - normalized[i] * mean_gn);
      static_cast<T*>(b.grad_x)[at] = from_double<T>(grad + (passed ? to_double(passed[at]) : 0));
    }
  }
  for (size_t i = 0; i < columns; ++i) {
    static_cast<T*>(b.grad_weight)[i] = from_double<T>(grad_weight[i]);
    static_cast<T*>(b.grad_bias)[i] = from_double<T>(grad_bias[i]);
  }
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Forward& f) { visit(f.dtype, [&](auto zero) { forward_as<decltype(zero)>(f); }); },
    [](const Backward& b) { visit(b.dtype, [&](auto zero) { backward_as<decltype(zero)>(b); }); },
};

}  // namespace pyllm::layer_norm
