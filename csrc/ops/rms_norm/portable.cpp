// forward    rows shared among the threads; for a row
//              h = x + residual, stored (where there is one)     | reads come from memory
//              sum of h^2                                        | the row stays in the first-level cache
//              y = h rstd (weight + offset)                      | and asks for the next row meanwhile
// backward   parts of rows shared among the threads; for a row
//              sum of dy gain h rstd;  part's dweight += dy h rstd
//              dx = dy gain rstd - h rstd^2 mean (+ what came in past the norm), asking for the next row
//            then the parts' dweights are added, in order.
//
// Memory sees each row once: 2 elements per component forward (4 with a residual), 3 (4) backward. With 16
// bits a vector takes 5 instructions forward in the first loop and 9 in the second: a third of the time that
// its bytes take. The hardware's prefetchers stop at the end of a page, and a row of 2048 16-bit elements is
// one: without asking ahead a tenth of the time is lost.
#include "core/levels.h"
#include "core/norm_rows.h"
#include "ops/rms_norm/rms_norm.h"

namespace pyllm::rms_norm {
namespace {

template <class T>
float sum_of_squares(const T* h, int64_t columns) {
  Vec first = zero(), second = zero();
  for_each_twin(columns, [&](int64_t i, int64_t n) {
    const Twin v = load_twin(h + i, n);
    first = fma(v.first, v.first, first);
    second = fma(v.second, v.second, second);
  });
  return reduce_add(first + second);
}

// y = h * rstd * (weight + offset); asks for the next row of what was added up to h.
template <class T>
void scale_row(const Forward& f, const T* h, int64_t row, float rstd_row, bool streamed) {
  const int64_t start = row * f.columns, next = start + f.columns;
  const T* weight = static_cast<const T*>(f.weight);
  const T* x = static_cast<const T*>(f.x) + next;
  const T* residual = f.residual ? static_cast<const T*>(f.residual) + next : nullptr;
  T* y = static_cast<T*>(f.y) + start;
  const Vec rstd = set1(rstd_row), offset = set1(static_cast<float>(f.weight_offset));
  for_each_twin(f.columns, [&](int64_t i, int64_t n) {
    __builtin_prefetch(x + i);
    if (residual) __builtin_prefetch(residual + i);
    const Twin v = load_twin(h + i, n), w = load_twin(weight + i, n);
    put_twin(y + i, {v.first * rstd * (w.first + offset), v.second * rstd * (w.second + offset)}, n,
             streamed);
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
      const float mean = sum_of_squares(h, f.columns) / static_cast<float>(f.columns);
      const float rstd = 1.0f / __builtin_sqrtf(mean + static_cast<float>(f.eps));
      static_cast<float*>(f.rstd)[row] = rstd;
      scale_row(f, h, row, rstd, streamed);
    }
    if (streamed) finish_streams();
  });
}

// One row: its grad_x, and its share of the weight gradient added to `grad_weight`.
template <class T>
void backward_row(const Backward& b, int64_t row, bool streamed, float* grad_weight) {
  const int64_t start = row * b.columns;
  const T* grad_y = static_cast<const T*>(b.grad_y) + start;
  const T* h = static_cast<const T*>(b.h) + start;
  const T* weight = static_cast<const T*>(b.weight);
  const Vec offset = set1(static_cast<float>(b.weight_offset));
  const float rstd_row = static_cast<const float*>(b.rstd)[row];
  const Vec rstd = set1(rstd_row);
  Vec first = zero(), second = zero();
  for_each_twin(b.columns, [&](int64_t i, int64_t n) {
    const Twin v = load_twin(h + i, n), dy = load_twin(grad_y + i, n), w = load_twin(weight + i, n);
    const Vec n1 = v.first * rstd, n2 = v.second * rstd;
    float* sums = grad_weight + i;
    store(sums, fma(dy.first, n1, load(sums)));
    store(sums + kLanes, fma(dy.second, n2, load(sums + kLanes)));
    first = fma(dy.first * (w.first + offset), n1, first);
    second = fma(dy.second * (w.second + offset), n2, second);
  });
  const float mean = reduce_add(first + second) / static_cast<float>(b.columns);
  const Vec shrink = set1(rstd_row * rstd_row * mean);
  T* grad_x = static_cast<T*>(b.grad_x) + start;
  const T* passed = b.grad_residual_out ? static_cast<const T*>(b.grad_residual_out) + start : nullptr;
  for_each_twin(b.columns, [&](int64_t i, int64_t n) {
    __builtin_prefetch(h + b.columns + i);
    __builtin_prefetch(grad_y + b.columns + i);
    if (passed) __builtin_prefetch(passed + b.columns + i);
    const Twin v = load_twin(h + i, n), dy = load_twin(grad_y + i, n), w = load_twin(weight + i, n);
    Vec first = dy.first * (w.first + offset) * rstd - v.first * shrink;
    Vec second = dy.second * (w.second + offset) * rstd - v.second * shrink;
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
  sum_over_rows(b.rows, b.columns, {static_cast<T*>(b.grad_weight)},
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

}  // namespace pyllm::rms_norm
