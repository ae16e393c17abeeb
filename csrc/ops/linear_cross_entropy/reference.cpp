#include <cmath>
#include <limits>
#include <vector>

#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace pyllm::linear_cross_entropy {
namespace {

// One row's l, and the derivative of each l by its logit.
template <class T>
void logits_of(const Problem& p, int64_t token, std::vector<double>& l, std::vector<double>* slope) {
  const T* x = static_cast<const T*>(p.x) + token * p.hidden;
  for (int64_t j = 0; j < p.vocab; ++j) {
    const T* w = static_cast<const T*>(p.weight) + j * p.hidden;
    double logit = p.bias ? to_double(static_cast<const T*>(p.bias)[j]) : 0;
    for (int64_t i = 0; i < p.hidden; ++i) logit += to_double(x[i]) * to_double(w[i]);
    const double bounded = p.softcap > 0 ? std::tanh(logit / p.softcap) : 0;
    if (p.softcap > 0) logit = p.softcap * bounded;
    l[static_cast<size_t>(j)] = logit / p.temperature;
    if (slope) (*slope)[static_cast<size_t>(j)] = (1 - bounded * bounded) / p.temperature;
  }
}

template <class T>
void forward_as(const Problem& p, const Rows& rows, Statistics* out) {
  std::vector<double> l(static_cast<size_t>(p.vocab));
  for (int64_t row = 0; row < rows.count; ++row) {
    logits_of<T>(p, rows.token[row], l, nullptr);
    Statistics s = {std::numeric_limits<double>::lowest(), 0, 0, 0};
    for (const double value : l) s.max = value > s.max ? value : s.max;
    for (const double value : l) {
      s.sum += std::exp(value - s.max);
      s.total += value;
    }
    if (rows.target[row] >= 0) s.target = l[static_cast<size_t>(rows.target[row])];
    out[row] = s;
  }
}

template <class T>
void backward_as(const Backward& b, const Rows& rows, const Coefficients* coefficients) {
  const Problem& p = b.problem;
  const size_t vocab = static_cast<size_t>(p.vocab), hidden = static_cast<size_t>(p.hidden);
  std::vector<double> l(vocab), slope(vocab), grad_x(hidden);
  std::vector<double> grad_weight(b.grad_weight ? vocab * hidden : 0), grad_bias(vocab);
  for (int64_t row = 0; row < rows.count; ++row) {
    const Coefficients& c = coefficients[row];
    const T* x = static_cast<const T*>(p.x) + rows.token[row] * p.hidden;
    logits_of<T>(p, rows.token[row], l, &slope);
    grad_x.assign(hidden, 0);
    for (size_t j = 0; j < vocab; ++j) {
      const bool is_target = static_cast<int64_t>(j) == rows.target[row];
      const double grad =
          (std::exp(l[j] - c.lse) * c.softmax - (is_target ? c.target : 0) - c.all) * slope[j];
      const T* w = static_cast<const T*>(p.weight) + j * hidden;
      grad_bias[j] += grad;
      for (size_t i = 0; i < hidden; ++i) grad_x[i] += grad * to_double(w[i]);
      if (!b.grad_weight) continue;
      for (size_t i = 0; i < hidden; ++i) grad_weight[j * hidden + i] += grad * to_double(x[i]);
    }
    if (!b.grad_x) continue;
    T* out = static_cast<T*>(b.grad_x) + rows.token[row] * p.hidden;
    for (size_t i = 0; i < hidden; ++i) out[i] = from_double<T>(grad_x[i]);
  }
  for (size_t i = 0; i < grad_weight.size(); ++i) {
    if (b.wide_grad_weight) {
      static_cast<float*>(b.grad_weight)[i] = from_double<float>(grad_weight[i]);
    } else {
      static_cast<T*>(b.grad_weight)[i] = from_double<T>(grad_weight[i]);
    }
  }
  for (size_t j = 0; b.grad_bias && j < vocab; ++j) {
    static_cast<T*>(b.grad_bias)[j] = from_double<T>(grad_bias[j]);
  }
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Problem& p, const Rows& rows, Statistics* out) {
      visit(p.dtype, [&](auto zero) { forward_as<decltype(zero)>(p, rows, out); });
    },
    [](const Backward& b, const Rows& rows, const Coefficients* coefficients) {
      visit(b.problem.dtype, [&](auto zero) { backward_as<decltype(zero)>(b, rows, coefficients); });
    },
};

}  // namespace pyllm::linear_cross_entropy
