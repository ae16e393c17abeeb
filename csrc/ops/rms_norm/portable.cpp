// Two passes over a row that stays in the first-level cache: sum of squares, then the scaled store. Memory
// sees each row once in and once out (with a residual: twice in, twice out).
#include "core/aligned.h"
#include "core/levels.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "ops/rms_norm/rms_norm.h"

namespace pyllm::rms_norm {
namespace {

// Rows per task: about 32 KB of row data, so that a fork pays off.
int64_t grain(int64_t columns) { return columns >= 8192 ? 1 : 8192 / (columns ? columns : 1); }

template <class T>
void add(const T* x, const T* residual, T* sum, int64_t columns) {
  for_each_vec(columns, [&](int64_t i, int64_t lanes) {
    store_lanes(sum + i, load_lanes(x + i, lanes) + load_lanes(residual + i, lanes), lanes);
  });
}

template <class T>
void forward_as(const Forward& f) {
  parallel_for(0, f.rows, grain(f.columns), [&](int64_t begin, int64_t end) {
    const T* weight = static_cast<const T*>(f.weight);
    const Vec offset = set1(static_cast<float>(f.weight_offset));
    for (int64_t row = begin; row < end; ++row) {
      const T* h = static_cast<const T*>(f.x) + row * f.columns;
      if (f.residual) {
        T* sum = static_cast<T*>(f.residual_out) + row * f.columns;
        add(h, static_cast<const T*>(f.residual) + row * f.columns, sum, f.columns);
        h = sum;
      }
      Vec squares = zero();
      for_each_vec(f.columns, [&](int64_t i, int64_t lanes) {
        const Vec v = load_lanes(h + i, lanes);
        squares = fma(v, v, squares);
      });
      const float mean = reduce_add(squares) / static_cast<float>(f.columns);
      const float rstd = 1.0f / __builtin_sqrtf(mean + static_cast<float>(f.eps));
      static_cast<float*>(f.rstd)[row] = rstd;
      T* y = static_cast<T*>(f.y) + row * f.columns;
      for_each_vec(f.columns, [&](int64_t i, int64_t lanes) {
        const Vec gain = load_lanes(weight + i, lanes) + offset;
        store_lanes(y + i, load_lanes(h + i, lanes) * set1(rstd) * gain, lanes);
      });
    }
  });
}

// One row: its grad_x, and its share of the weight gradient added to `grad_weight`.
template <class T>
void backward_row(const Backward& b, int64_t row, float* grad_weight) {
  const int64_t start = row * b.columns;
  const T* grad_y = static_cast<const T*>(b.grad_y) + start;
  const T* h = static_cast<const T*>(b.h) + start;
  const T* weight = static_cast<const T*>(b.weight);
  const Vec offset = set1(static_cast<float>(b.weight_offset));
  const Vec rstd = set1(static_cast<const float*>(b.rstd)[row]);
  Vec dot = zero();
  for_each_vec(b.columns, [&](int64_t i, int64_t lanes) {
    const Vec n = load_lanes(h + i, lanes) * rstd;
    const Vec dy = load_lanes(grad_y + i, lanes);
    store_lanes(grad_weight + i, fma(dy, n, load_lanes(grad_weight + i, lanes)), lanes);
    dot = fma(dy * (load_lanes(weight + i, lanes) + offset), n, dot);
  });
  const Vec mean = set1(reduce_add(dot) / static_cast<float>(b.columns));
  T* grad_x = static_cast<T*>(b.grad_x) + start;
  for_each_vec(b.columns, [&](int64_t i, int64_t lanes) {
    const Vec n = load_lanes(h + i, lanes) * rstd;
    const Vec g = load_lanes(grad_y + i, lanes) * (load_lanes(weight + i, lanes) + offset);
    Vec grad = rstd * (g - n * mean);
    if (b.grad_residual_out) {
      grad = grad + load_lanes(static_cast<const T*>(b.grad_residual_out) + start + i, lanes);
    }
    store_lanes(grad_x + i, grad, lanes);
  });
}

template <class T>
void backward_as(const Backward& b) {
  const int64_t parts = part_count(b.rows), rows = part_rows(b.rows);
  const auto partial = make_aligned<float>(parts * b.columns);
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      float* sum = partial.get() + part * b.columns;
      for (int64_t i = 0; i < b.columns; ++i) sum[i] = 0.0f;
      const int64_t last = (part + 1) * rows < b.rows ? (part + 1) * rows : b.rows;
      for (int64_t row = part * rows; row < last; ++row) backward_row<T>(b, row, sum);
    }
  });
  for_each_vec(b.columns, [&](int64_t i, int64_t lanes) {
    Vec total = zero();
    for (int64_t part = 0; part < parts; ++part) {
      total = total + load_lanes(partial.get() + part * b.columns + i, lanes);
    }
    store_lanes(static_cast<T*>(b.grad_weight) + i, total, lanes);
  });
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

}  // namespace pyllm::rms_norm
