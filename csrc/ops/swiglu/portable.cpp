// One pass: each element is read once and written once. Forward moves three elements per output and backward
// five; with 16-bit tensors the exponential and one division, about 20 instructions a vector, take longer
// than memory.
#include "core/levels.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "ops/swiglu/activations.h"
#include "ops/swiglu/swiglu.h"

namespace pyllm::swiglu {
namespace {

// A row is cut into pieces of this many elements, so that few long rows are shared among threads too.
constexpr int64_t kPiece = 4096;

// Calls f(row, first column, columns) for every piece of every row.
template <class F>
void for_each_piece(int64_t rows, int64_t columns, const F& f) {
  const int64_t pieces = (columns + kPiece - 1) / kPiece;
  const int64_t grain = columns >= kPiece ? 2 : 2 * kPiece / (columns ? columns : 1);
  parallel_for(0, rows * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * kPiece;
      f(i / pieces, first, columns - first < kPiece ? columns - first : kPiece);
    }
  });
}

template <class T>
const T* at(const Input& input, int64_t row, int64_t column) {
  return static_cast<const T*>(input.data) + row * input.row_stride + column;
}

template <class F, class T>
void forward_as(const Forward& f) {
  for_each_piece(f.rows, f.columns, [&](int64_t row, int64_t first, int64_t columns) {
    const T *gate = at<T>(f.gate, row, first), *up = at<T>(f.up, row, first);
    T* out = static_cast<T*>(f.out) + row * f.columns + first;
    for_each_vec(columns, [&](int64_t i, int64_t lanes) {
      store_lanes(out + i, F::activate(load_lanes(gate + i, lanes)).value * load_lanes(up + i, lanes), lanes);
    });
  });
}

template <class F, class T>
void backward_as(const Backward& b) {
  for_each_piece(b.rows, b.columns, [&](int64_t row, int64_t first, int64_t columns) {
    const T *grad_out = at<T>(b.grad_out, row, first), *gate = at<T>(b.gate, row, first);
    const T* up = at<T>(b.up, row, first);
    T* grad_gate = static_cast<T*>(b.grad_gate) + row * b.columns + first;
    T* grad_up = static_cast<T*>(b.grad_up) + row * b.columns + first;
    for_each_vec(columns, [&](int64_t i, int64_t lanes) {
      const Activated f = F::activate(load_lanes(gate + i, lanes));
      const Vec grad = load_lanes(grad_out + i, lanes);
      store_lanes(grad_gate + i, grad * load_lanes(up + i, lanes) * f.slope, lanes);
      store_lanes(grad_up + i, grad * f.value, lanes);
    });
  });
}

template <class F>
void forward_with(const Forward& f) {
  if (f.dtype == DType::f32) forward_as<F, float>(f);
  if (f.dtype == DType::bf16) forward_as<F, bfloat16>(f);
  if (f.dtype == DType::f16) forward_as<F, float16>(f);
}

template <class F>
void backward_with(const Backward& b) {
  if (b.dtype == DType::f32) backward_as<F, float>(b);
  if (b.dtype == DType::bf16) backward_as<F, bfloat16>(b);
  if (b.dtype == DType::f16) backward_as<F, float16>(b);
}

void run_forward(const Forward& f) {
  if (f.activation == Activation::silu) forward_with<Silu>(f);
  if (f.activation == Activation::gelu) forward_with<Gelu>(f);
  if (f.activation == Activation::gelu_tanh) forward_with<GeluTanh>(f);
}

void run_backward(const Backward& b) {
  if (b.activation == Activation::silu) backward_with<Silu>(b);
  if (b.activation == Activation::gelu) backward_with<Gelu>(b);
  if (b.activation == Activation::gelu_tanh) backward_with<GeluTanh>(b);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward, run_backward};

}  // namespace pyllm::swiglu
