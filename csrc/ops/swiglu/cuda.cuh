// A thread takes one vector of kWidth elements (16 bytes, or one element where rows are not aligned); block n
// is stretch n % stretches of row n / stretches. Memory sees 3 elements a component forward and 5 backward,
// each once. An H100 has time for about 57 instructions of a lane per component at 3 TB/s; silu takes about
// 30 with its exponential and division in full precision.
#pragma once

#include "core/gpu.h"
#include "core/gpu_vector.h"
#include "ops/swiglu/swiglu.h"

namespace pyllm::swiglu {

constexpr int kThreads = 256;

struct Activated {
  float value, slope;
};

// argument(g) * sigmoid, where `slope` is the derivative of the sigmoid's argument. Where the sigmoid has no
// tail left, the slope has none either: infinity must not meet its zero.
GPU_FN Activated through_sigmoid(float g, float argument, float slope) {
  const float s = 1.0f / (1.0f + expf(-argument)), rest = 1.0f / (1.0f + expf(argument)), tail = s * rest;
  return {g * s, s + (tail == 0.0f ? 0.0f : g * tail * slope)};
}

template <Activation kActivation>
GPU_FN Activated activated(float g) {
  if constexpr (kActivation == Activation::silu) return through_sigmoid(g, g, 1.0f);
  if constexpr (kActivation == Activation::gelu_tanh) {
    constexpr float kOuter = static_cast<float>(2 * kSqrtTwoOverPi), kInner = static_cast<float>(kCubic);
    const float square = g * g;
    return through_sigmoid(g, kOuter * g * fmaf(kInner, square, 1.0f),
                           kOuter * fmaf(3.0f * kInner, square, 1.0f));
  }
  if constexpr (kActivation == Activation::gelu) {
    const float cdf = 0.5f * erfcf(-0.707106781f * g), density = 0.398942280f * expf(-0.5f * g * g);
    return {g * cdf, density == 0.0f ? cdf : fmaf(g, density, cdf)};
  }
}

// Calls f(row, column) for the calling thread's vector, if there is one.
template <int kWidth, class F>
GPU_FN void for_my_vector(int64_t columns, const F& f) {
  const unsigned stretches = static_cast<unsigned>((columns + kThreads * kWidth - 1) / (kThreads * kWidth));
  const int64_t column = (int64_t{blockIdx.x % stretches} * kThreads + threadIdx.x) * kWidth;
  if (column < columns) f(int64_t{blockIdx.x / stretches}, column);
}

template <class T, int kWidth>
GPU_FN void read(const Input& input, int64_t row, int64_t column, float (&x)[kWidth]) {
  gpu::to_floats(gpu::load<T, kWidth>(static_cast<const T*>(input.data) + row * input.row_stride + column),
                 x);
}

template <class T, int kWidth>
GPU_FN void write(void* out, int64_t at, const float (&x)[kWidth]) {
  gpu::store(static_cast<T*>(out) + at, gpu::from_floats<T, kWidth>(x));
}

template <Activation kActivation, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) glu_forward(const Forward f) {
  for_my_vector<kWidth>(f.columns, [&](int64_t row, int64_t column) {
    float gate[kWidth], up[kWidth];
    read<T>(f.gate, row, column, gate);
    if (f.up.data) read<T>(f.up, row, column, up);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) {
      gate[n] = activated<kActivation>(gate[n]).value;
      if (f.up.data) gate[n] *= up[n];
    }
    write<T>(f.out, row * f.columns + column, gate);
  });
}

template <Activation kActivation, class T, int kWidth>
__global__ void __launch_bounds__(kThreads) glu_backward(const Backward b) {
  for_my_vector<kWidth>(b.columns, [&](int64_t row, int64_t column) {
    float grad[kWidth], gate[kWidth], up[kWidth];
    read<T>(b.grad_out, row, column, grad);
    read<T>(b.gate, row, column, gate);
    if (b.up.data) read<T>(b.up, row, column, up);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) {
      const Activated f = activated<kActivation>(gate[n]);
      gate[n] = grad[n] * (b.up.data ? up[n] : 1.0f) * f.slope;
      grad[n] = b.up.data ? grad[n] * f.value : f.value;
    }
    write<T>(b.grad_gate, row * b.columns + column, gate);
    write<T>(b.grad_up, row * b.columns + column, grad);
  });
}

}  // namespace pyllm::swiglu
