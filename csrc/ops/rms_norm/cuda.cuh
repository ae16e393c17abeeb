// blockDim.x threads take a row (core/gpu_norm_rows.h), blockDim.y rows a block.
//
// forward    h = x + residual into registers, and out;  row_sum of h^2;  y = h rstd (weight + offset)
// backward   a block walks rows part, part + parts, ...; for each
//              row_sum of dy gain h rstd;  dx;  dweight of its own columns += dy h rstd, in registers
//            and stores one line of dweights;  sum_parts adds the parts' lines in order.
//
// Memory sees every element of a row once: 2 elements a component forward (4 with a residual), 3 (4)
// backward.
#pragma once

#include "core/gpu_norm_rows.h"
#include "ops/rms_norm/rms_norm.h"

namespace pyllm::rms_norm {

// Backward keeps h, dy and dweight, and only vectors of 16-bit elements hold two in a register.
template <class T, int kWidth>
constexpr int kHeldBackward = sizeof(T) == 2 && kWidth > 1 ? gpu::kHeld : gpu::kHeld / 2;

template <class T, int kWidth>
__global__ void __launch_bounds__(gpu::kRowThreads) rms_norm_forward(const Forward f) {
  using namespace gpu;
  GPU_SHARED(float, sums, kMostWarps);
  constexpr int kVectors = kHeld / kWidth;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const bool mine = row < f.rows;  // the others only keep the barriers company
  const int columns = static_cast<int>(f.columns);
  const int64_t start = (mine ? row : 0) * f.columns;
  const RowInput<T, kWidth> input = {static_cast<const T*>(f.x) + start,
                                     f.residual ? static_cast<const T*>(f.residual) + start : nullptr};
  T* residual_out = f.residual && mine ? static_cast<T*>(f.residual_out) + start : nullptr;
  float squares = 0;
  const auto take = [&](const Vector<T, kWidth>& h, int i) {
    if (residual_out) store(residual_out + i, h);
    float value[kWidth];
    to_floats(h, value);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) squares = fmaf(value[n], value[n], squares);
  };
  Vector<T, kWidth> held[kVectors];
  for_held<kWidth, kVectors>(columns, [&](int v, int i) {
    held[v] = input.read(i);
    take(held[v], i);
  });
  for_rest<kWidth, kVectors>(columns, [&](int i) { take(input.read(i), i); });
  const float mean = row_sum(squares, sums) / static_cast<float>(f.columns);
  const float rstd = 1.0f / sqrtf(mean + static_cast<float>(f.eps));
  if (!mine) return;
  if (threadIdx.x == 0) static_cast<float*>(f.rstd)[row] = rstd;
  const float offset = static_cast<float>(f.weight_offset);
  const auto scale = [&](const Vector<T, kWidth>& h, int i) {
    float value[kWidth], weight[kWidth];
    to_floats(h, value);
    load_or_zeros<T>(f.weight, i, weight);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] = value[n] * rstd * (weight[n] + offset);
    store(static_cast<T*>(f.y) + start + i, from_floats<T, kWidth>(value));
  };
  for_held<kWidth, kVectors>(columns, [&](int v, int i) { scale(held[v], i); });
  for_rest<kWidth, kVectors>(columns, [&](int i) { scale(input.read(i), i); });
}

// What a backward block adds up over its rows: partial is (parts, columns).
struct PartialBackward {
  Backward b;
  float* partial;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(gpu::kRowThreads) rms_norm_backward(const PartialBackward p) {
  using namespace gpu;
  GPU_SHARED(float, sums, 2 * kMostWarps);
  const Backward& b = p.b;
  const int columns = static_cast<int>(b.columns);
  const float offset = static_cast<float>(b.weight_offset);
  constexpr int kVectors = kHeldBackward<T, kWidth> / kWidth;
  float grad_weight[kVectors][kWidth] = {};
  int turn = 0;  // two arrays of sums by turns, so that one barrier a row is enough
  for (int64_t row = blockIdx.x; row < b.rows; row += gridDim.x, turn ^= 1) {
    const int64_t start = row * b.columns;
    const float rstd = static_cast<const float*>(b.rstd)[row];
    Vector<T, kWidth> h[kVectors], grad_y[kVectors];
    float dot = 0;
    for_held<kWidth, kVectors>(columns, [&](int v, int i) {
      h[v] = load<T, kWidth>(static_cast<const T*>(b.h) + start + i);
      grad_y[v] = load<T, kWidth>(static_cast<const T*>(b.grad_y) + start + i);
      float value[kWidth], dy[kWidth], weight[kWidth];
      to_floats(h[v], value);
      to_floats(grad_y[v], dy);
      load_or_zeros<T>(b.weight, i, weight);
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        const float normalized = value[n] * rstd;
        grad_weight[v][n] = fmaf(dy[n], normalized, grad_weight[v][n]);
        dot = fmaf(dy[n] * (weight[n] + offset), normalized, dot);
      }
    });
    const float shrink = rstd * rstd * row_sum(dot, sums + turn * kMostWarps) / static_cast<float>(b.columns);
    for_held<kWidth, kVectors>(columns, [&](int v, int i) {
      float value[kWidth], dy[kWidth], weight[kWidth], more[kWidth];
      to_floats(h[v], value);
      to_floats(grad_y[v], dy);
      load_or_zeros<T>(b.weight, i, weight);
      load_or_zeros<T>(b.grad_residual_out, start + i, more);
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        value[n] = dy[n] * (weight[n] + offset) * rstd - value[n] * shrink + more[n];
      }
      store(static_cast<T*>(b.grad_x) + start + i, from_floats<T, kWidth>(value));
    });
  }
  float* line = p.partial + int64_t{blockIdx.x} * b.columns;
  for_held<kWidth, kVectors>(columns, [&](int v, int i) {
#pragma unroll
    for (int n = 0; n < kWidth; ++n) line[i + n] = grad_weight[v][n];
  });
}

}  // namespace pyllm::rms_norm
