// A thread takes kWidth elements of a tensor (16 bytes of it, or one where some array is not aligned); blocks
// are shared out among many tensors (core/gpu_tensor_list.h). Memory sees every array once: 28 bytes read and
// written per float parameter, 22 with 16-bit parameters, 28 with a master copy too.
//
// Stochastic rounding works out the noise of each element for itself: 65 instructions of a lane, where an
// H100 has time for about 190 in 22 bytes at 3 TB/s.
#pragma once

#include "core/gpu.h"
#include "core/gpu_tensor_list.h"
#include "core/gpu_vector.h"
#include "ops/adamw/adamw.h"
#include "ops/adamw/noise.h"

namespace pyllm::adamw {

constexpr int kThreads = 256;

// One tensor's step as the kernel takes it.
struct Tensor {
  void* param;
  const void* grad;
  float *exp_avg, *exp_avg_sq, *master;
  int64_t count, step;
  uint64_t seed;
  float step_size, inverse_root_v;
  bool stochastic;
};

// What all tensors of a call share.
struct Factors {
  float keep_m, take_m, keep_v, take_v, decay, eps, grad_scale;
};

template <class T>
GPU_FN T rounded(const Tensor& t, float x, int64_t i) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (t.stochastic) return round_stochastically(x, noise_of(t.seed, t.step, i));
  }
  return gpu::from_float<T>(x);
}

// Elements [first, first + kWidth).
template <class T, int kWidth>
GPU_FN void step_elements(const Factors& f, const Tensor& t, int64_t first) {
  using namespace gpu;
  T* const param = static_cast<T*>(t.param) + first;
  float p[kWidth], g[kWidth], m[kWidth], v[kWidth];
  to_floats(load<T, kWidth>(static_cast<const T*>(t.grad) + first), g);
  load_floats(t.exp_avg + first, m);
  load_floats(t.exp_avg_sq + first, v);
  t.master ? load_floats(t.master + first, p) : to_floats(load<T, kWidth>(param), p);
  Vector<T, kWidth> next;
#pragma unroll
  for (int n = 0; n < kWidth; ++n) {
    const float scaled = g[n] * f.grad_scale;
    m[n] = fmaf(f.keep_m, m[n], f.take_m * scaled);
    v[n] = fmaf(f.keep_v, v[n], f.take_v * scaled * scaled);
    p[n] = p[n] * f.decay - t.step_size * m[n] / fmaf(sqrtf(v[n]), t.inverse_root_v, f.eps);
    next.element[n] = rounded<T>(t, p[n], first + n);
  }
  store(param, next);
  store_floats(t.exp_avg + first, m);
  store_floats(t.exp_avg_sq + first, v);
  if (t.master) store_floats(t.master + first, p);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    adamw_step(const gpu::TensorList<Tensor> list, const Factors factors) {
  const gpu::Place place = gpu::my_place(list);
  const Tensor& t = list.entry[place.entry];
  const int64_t first = (int64_t{place.block} * kThreads + threadIdx.x) * kWidth;
  if (first + kWidth <= t.count) return step_elements<T, kWidth>(factors, t, first);
  for (int64_t i = first; i < t.count; ++i) step_elements<T, 1>(factors, t, i);
}

}  // namespace pyllm::adamw
