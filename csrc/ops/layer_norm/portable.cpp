// forward    rows shared among the threads; for a row
//              h = x + residual, stored (where there is one)     | reads come from memory
//              mean of h;  mean of (h - mean)^2                  | the row stays in the first-level cache
//              y = (h - mean) rstd weight + bias                 | and asks for the next row meanwhile
// backward   parts of rows shared among the threads; for a row, with n = (h - mean) rstd and g = dy weight
//              sums of g and of g n;  part's dweight += dy n, dbias += dy
//              dx = rstd (g - mean(g) - n mean(g n)) (+ what came in past the norm), asking for the next row
//            then the parts' dweights and dbiases are added, in order.
//
// Memory sees each row once: 2 elements per component forward (4 with a residual), 3 (4) backward. Two passes
// for mean and variance, as one over squares cancels where the mean is large; both find the row in the cache.
#include "core/levels.h"
#include "core/norm_rows.h"
#include "ops/layer_norm/layer_norm.h"

namespace pyllm::layer_norm {
namespace {

template <class T>
float mean_of(const T* h, int64_t columns) {
  Vec first = zero(), second = zero();
  for_each_twin(columns, [&](int64_t i, int64_t n) {
    const Twin v = load_twin(h + i, n);
    first = first + v.first;
    second = second + v.second;
  });
  return reduce_add(first + second) / static_cast<float>(columns);
}

// Lanes past the end of a row are not zero once the mean is taken off, so the rest of a row goes one by one.
template <class T>
float variance_of(const T* h, int64_t columns, float mean) {
  const Vec center = set1(mean);
  Vec first = zero(), second = zero();
  const int64_t whole = columns / kTwin * kTwin;
  for_each_twin(whole, [&](int64_t i, int64_t n) {
    const Twin v = load_twin(h + i, n);
    const Vec a = v.first - center, b = v.second - center;
    first = fma(a, a, first);
    second = fma(b, b, second);
  });
  float total = reduce_add(first + second);
  for (int64_t i = whole; i < columns; ++i) {
    const float a = to_accumulator(h[i]) - mean;
    total += a * a;
  }
  return total / static_cast<float>(columns);
}

// y = (h - mean) rstd weight + bias; asks for the next row of what was added up to h.
template <class T>
void scale_row(const Forward& f, const T* h, int64_t row, float mean_row, float rstd_row, bool streamed) {
  const int64_t start = row * f.columns, next = start + f.columns;
  const T *weight = static_cast<const T*>(f.weight), *bias = static_cast<const T*>(f.bias);
  const T* x = static_cast<const T*>(f.x) + next;
  const T* residual = f.residual ? static_cast<const T*>(f.residual) + next : nullptr;
  T* y = static_cast<T*>(f.y) + start;
  const Vec mean = set1(mean_row), rstd = set1(rstd_row);
  for_each_twin(f.columns, [&](int64_t i, int64_t n) {
    __builtin_prefetch(x + i);
    if (residual) __builtin_prefetch(residual + i);
    const Twin v = load_twin(h + i, n), w = load_twin(weight + i, n);
    const Twin shift = bias ? load_twin(bias + i, n) : Twin{zero(), zero()};
    const Vec a = (v.first - mean) * rstd, b = (v.second - mean) * rstd;
    put_twin(y + i, {fma(a, w.first, shift.first), fma(b, w.second, shift.second)}, n, streamed);
  });
}

template <class T>
void forward_as(const Forward& f) {
  const bool streamed = streams(static_cast<const T*>(f.y), f.rows, f.columns);
  parallel_for(0, f.rows, row_grain(f.columns), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t start = row * f.columns;
      const T* h = static_cast<const T*>(f.x) + start;
      if (f.residual) {
        T* sum = static_cast<T*>(f.residual_out) + start;
        add_rows(h, static_cast<const T*>(f.residual) + start, sum, f.columns);
        h = sum;
      }
      const float mean = mean_of(h, f.columns);
      const float variance = variance_of(h, f.columns, mean);
      const float rstd = 1.0f / __builtin_sqrtf(variance + static_cast<float>(f.eps));
      static_cast<float*>(f.mean)[row] = mean;
      static_cast<float*>(f.rstd)[row] = rstd;
      scale_row(f, h, row, mean, rstd, streamed);
    }
    if (streamed) finish_streams();
  });
}

// sums[i] += terms
inline void add_to(float* sums, Vec first, Vec second) {
  store(sums, load(sums) + first);
  store(sums + kLanes, load(sums + kLanes) + second);
}

// mean(g) and mean(g n) of a row, and its terms of dweight and dbias.
struct Means {
  float g, gn;
};
template <class T>
Means reduce_row(const Backward& b, const T* grad_y, const T* h, Vec mean, Vec rstd, float* sums) {
  const T* weight = static_cast<const T*>(b.weight);
  float* bias_sums = sums + sums_width(b.columns);
  Vec g1 = zero(), g2 = zero(), gn1 = zero(), gn2 = zero();
  for_each_twin(b.columns, [&](int64_t i, int64_t n) {
    const Twin v = load_twin(h + i, n), dy = load_twin(grad_y + i, n), w = load_twin(weight + i, n);
    const Vec n1 = (v.first - mean) * rstd, n2 = (v.second - mean) * rstd;
    add_to(sums + i, dy.first * n1, dy.second * n2);
    add_to(bias_sums + i, dy.first, dy.second);
    const Vec a = dy.first * w.first, c = dy.second * w.second;
    g1 = g1 + a;
    g2 = g2 + c;
    gn1 = fma(a, n1, gn1);
    gn2 = fma(c, n2, gn2);
  });
  const float columns = static_cast<float>(b.columns);
  return {reduce_add(g1 + g2) / columns, reduce_add(gn1 + gn2) / columns};
}

// One row: its grad_x, and its terms of the gradients of weight and bias added to `sums`.
template <class T>
void backward_row(const Backward& b, int64_t row, bool streamed, float* sums) {
  const int64_t start = row * b.columns;
  const T* grad_y = static_cast<const T*>(b.grad_y) + start;
  const T* h = static_cast<const T*>(b.h) + start;
  const T* weight = static_cast<const T*>(b.weight);
  const Vec mean = set1(static_cast<const float*>(b.mean)[row]);
  const Vec rstd = set1(static_cast<const float*>(b.rstd)[row]);
  const Means means = reduce_row(b, grad_y, h, mean, rstd, sums);
  const Vec mean_g = set1(means.g), mean_gn = set1(means.gn);
  T* grad_x = static_cast<T*>(b.grad_x) + start;
  const T* passed = b.grad_residual_out ? static_cast<const T*>(b.grad_residual_out) + start : nullptr;
  for_each_twin(b.columns, [&](int64_t i, int64_t n) {
    __builtin_prefetch(h + b.columns + i);
    __builtin_prefetch(grad_y + b.columns + i);
    if (passed) __builtin_prefetch(passed + b.columns + i);
    const Twin v = load_twin(h + i, n), dy = load_twin(grad_y + i, n), w = load_twin(weight + i, n);
    const Vec n1 = (v.first - mean) * rstd, n2 = (v.second - mean) * rstd;
    Vec first = rstd * (dy.first * w.first - mean_g - n1 * mean_gn);
    Vec second = rstd * (dy.second * w.second - mean_g - n2 * mean_gn);
    if (passed) {
      const Twin more = load_twin(passed + i, n);
      first = first + more.first;
      second = second + more.second;
    }
    put_twin(grad_x + i, {first, second}, n, streamed);
  });
}

template <class T>
void backward_as(const Backward& b) {
  const bool streamed = streams(static_cast<const T*>(b.grad_x), b.rows, b.columns);
  sum_over_rows(b.rows, b.columns, {static_cast<T*>(b.grad_weight), static_cast<T*>(b.grad_bias)},
                [&](int64_t row, float* sums) { backward_row<T>(b, row, streamed, sums); });
}

void run_forward(const Forward& f) {
  if (f.dtype == DType::f32) forward_as<float>(f);
  if (f.dtype == DType::bf16) forward_as<bfloat16>(f);
  if (f.dtype == DType::f16) forward_as<float16>(f);
}

void run_backward(const Backward& b) {
  if (b.dtype == DType::f32) backward_as<float>(b);
  if (b.dtype == DType::bf16) backward_as<bfloat16>(b);
  if (b.dtype == DType::f16) backward_as<float16>(b);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward, run_backward};

}  // namespace pyllm::layer_norm
