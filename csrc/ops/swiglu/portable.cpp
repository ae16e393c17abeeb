// One pass: each element is read once and written once, 3 elements per component forward and 5 backward. With
// 16-bit tensors a core has 27 cycles (2.5 GHz, 9 GB/s a core) for the 96 bytes of a vector forward. silu
// with an exponential to full precision, a division and elements widened one vector at a time took 56; with
// 16-bit precision for both (activations.h) and twins of vectors (core/twin.h) it is about 25 instructions,
// and memory sets the time again.
#include "core/levels.h"
#include "core/parallel.h"
#include "core/twin.h"
#include "ops/swiglu/activations.h"
#include "ops/swiglu/swiglu.h"

namespace pyllm::swiglu {
namespace {

// A row is cut into pieces of this many elements, so that few long rows are shared among threads too.
constexpr int64_t kPiece = 4096;

// Calls f(row, first column, columns) for every piece of every row.
template <class F>
void for_each_piece(int64_t rows, int64_t columns, bool streamed, const F& f) {
  const int64_t pieces = (columns + kPiece - 1) / kPiece;
  const int64_t grain = columns >= kPiece ? 2 : 2 * kPiece / (columns ? columns : 1);
  parallel_for(0, rows * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * kPiece;
      f(i / pieces, first, columns - first < kPiece ? columns - first : kPiece);
    }
    if (streamed) finish_streams();
  });
}

// Asks for what lies 1 KB further on: the arithmetic of one vector fills the window in which a core looks
// ahead by itself, and 8% of the time goes without this.
template <class T>
void fetch_ahead(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 1024);
}

template <class T>
const T* at(const Input& input, int64_t row, int64_t column) {
  return input.data ? static_cast<const T*>(input.data) + row * input.row_stride + column : nullptr;
}

// Of a plain activation: ones.
template <class T>
Twin load_factor(const T* up, int64_t i, int64_t n) {
  return up ? load_twin(up + i, n) : Twin{set1(1.0f), set1(1.0f)};
}

template <class F, class T>
void forward_as(const Forward& f) {
  const bool streamed = streams(static_cast<const T*>(f.out), f.rows, f.columns);
  for_each_piece(f.rows, f.columns, streamed, [&](int64_t row, int64_t first, int64_t columns) {
    const T *gate = at<T>(f.gate, row, first), *up = at<T>(f.up, row, first);
    T* out = static_cast<T*>(f.out) + row * f.columns + first;
    for_each_twin(columns, [&](int64_t i, int64_t n) {
      for (const T* p : {gate, up ? up : gate}) fetch_ahead(p + i);
      const Twin g = load_twin(gate + i, n), u = load_factor(up, i, n);
      const Vec a = F::template activate<T>(g.first).value, b = F::template activate<T>(g.second).value;
      put_twin(out + i, {a * u.first, b * u.second}, n, streamed);
    });
  });
}

template <class F, class T>
void backward_as(const Backward& b) {
  const bool streamed = streams(static_cast<const T*>(b.grad_gate), b.rows, b.columns) &&
                        streams(static_cast<const T*>(b.grad_up), b.rows, b.columns);
  for_each_piece(b.rows, b.columns, streamed, [&](int64_t row, int64_t first, int64_t columns) {
    const T *grad_out = at<T>(b.grad_out, row, first), *gate = at<T>(b.gate, row, first);
    const T* up = at<T>(b.up, row, first);
    T* grad_gate = static_cast<T*>(b.grad_gate) + row * b.columns + first;
    T* grad_up = static_cast<T*>(b.grad_up) + row * b.columns + first;
    for_each_twin(columns, [&](int64_t i, int64_t n) {
      for (const T* p : {grad_out, gate, up ? up : gate}) fetch_ahead(p + i);
      const Twin g = load_twin(gate + i, n), u = load_factor(up, i, n), dy = load_twin(grad_out + i, n);
      const Activated x = F::template activate<T>(g.first), y = F::template activate<T>(g.second);
      put_twin(grad_gate + i, {dy.first * u.first * x.slope, dy.second * u.second * y.slope}, n, streamed);
      const Twin product = up ? Twin{dy.first * x.value, dy.second * y.value} : Twin{x.value, y.value};
      put_twin(grad_up + i, product, n, streamed);
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
