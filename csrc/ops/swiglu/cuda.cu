#include "core/gpu_launch.h"
#include "ops/swiglu/cuda.cuh"

namespace pyllm::swiglu {
namespace {

template <class T>
bool aligned(const Input& input) {
  return !input.data || gpu::aligned<T>(input.data, input.row_stride);
}

// Rows that follow one another are one long row, so that short ones fill their blocks too.
template <class Problem, class... Inputs>
Problem joined(Problem p, Inputs Problem::*... inputs) {
  const bool dense = ((!(p.*inputs).data || (p.*inputs).row_stride == p.columns) && ...);
  if (!dense) return p;
  p.columns *= p.rows;
  p.rows = 1;
  ((p.*inputs = {(p.*inputs).data, p.columns}), ...);
  return p;
}

gpu::Grid grid_of(int64_t rows, int64_t columns, int width) {
  return {"glu", {rows, columns}, {rows * gpu::ceil_div(columns, kThreads * width)}, {kThreads}};
}

template <Activation kActivation, class T>
void forward_with(const Forward& f) {
  constexpr int kWidth = gpu::kVector<T>;
  const bool vectors = aligned<T>(f.gate) && aligned<T>(f.up) && gpu::aligned<T>(f.out, f.columns);
  if (vectors) {
    gpu::launch(grid_of(f.rows, f.columns, kWidth), glu_forward<kActivation, T, kWidth>, f);
  } else {
    gpu::launch(grid_of(f.rows, f.columns, 1), glu_forward<kActivation, T, 1>, f);
  }
}

template <Activation kActivation, class T>
void backward_with(const Backward& b) {
  constexpr int kWidth = gpu::kVector<T>;
  const bool vectors = aligned<T>(b.grad_out) && aligned<T>(b.gate) && aligned<T>(b.up) &&
                       gpu::aligned<T>(b.grad_gate, b.columns) && gpu::aligned<T>(b.grad_up, b.columns);
  if (vectors) {
    gpu::launch(grid_of(b.rows, b.columns, kWidth), glu_backward<kActivation, T, kWidth>, b);
  } else {
    gpu::launch(grid_of(b.rows, b.columns, 1), glu_backward<kActivation, T, 1>, b);
  }
}

template <Activation kActivation>
void forward_of(const Forward& f) {
  if (f.dtype == DType::f32) forward_with<kActivation, float>(f);
  if (f.dtype == DType::bf16) forward_with<kActivation, bfloat16>(f);
  if (f.dtype == DType::f16) forward_with<kActivation, float16>(f);
}

template <Activation kActivation>
void backward_of(const Backward& b) {
  if (b.dtype == DType::f32) backward_with<kActivation, float>(b);
  if (b.dtype == DType::bf16) backward_with<kActivation, bfloat16>(b);
  if (b.dtype == DType::f16) backward_with<kActivation, float16>(b);
}

}  // namespace

void forward(const Forward& any) {
  const Forward f = joined(any, &Forward::gate, &Forward::up);
  if (f.activation == Activation::silu) forward_of<Activation::silu>(f);
  if (f.activation == Activation::gelu) forward_of<Activation::gelu>(f);
  if (f.activation == Activation::gelu_tanh) forward_of<Activation::gelu_tanh>(f);
}

void backward(const Backward& any) {
  const Backward b = joined(any, &Backward::grad_out, &Backward::gate, &Backward::up);
  if (b.activation == Activation::silu) backward_of<Activation::silu>(b);
  if (b.activation == Activation::gelu) backward_of<Activation::gelu>(b);
  if (b.activation == Activation::gelu_tanh) backward_of<Activation::gelu_tanh>(b);
}

}  // namespace pyllm::swiglu
