// blockDim.x threads take a row (core/gpu_norm_rows.h), blockDim.y rows a block.
//
// forward    h = x + residual into registers, and out;  row_sum of h: mean;  row_sum of (h - mean)^2: rstd;
//            y = (h - mean) rstd weight + bias
// backward   a block walks rows part, part + parts, ...; with g = dy weight and n = (h - mean) rstd
//              row_sum of g, of g n;  dx = rstd (g - (sum g + n sum g n) / columns);
//              dweight += dy n and dbias += dy of its own columns, in registers
//            and stores a line of each;  sum_parts adds the parts' lines in order.
//
// Memory sees every element of a row once: 2 elements a component forward (4 with a residual), 3 (4)
// backward.
#pragma once

#include "core/gpu_norm_rows.h"
#include "ops/layer_norm/layer_norm.h"

namespace pyllm::layer_norm {

// Backward keeps h, dy and, as floats, dweight and dbias.
constexpr int kHeldBackward = gpu::kHeld / 2;

template <class T, int kWidth>
__global__ void __launch_bounds__(gpu::kRowThreads) layer_norm_forward(const Forward f) {
  using namespace gpu;
  GPU_SHARED(float, sums, 2 * kMostWarps);
  constexpr int kVectors = kHeld / kWidth;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const bool mine = row < f.rows;  // the others only keep the barriers company
  const int columns = static_cast<int>(f.columns);
  const int64_t start = (mine ? row : 0) * f.columns;
  const RowInput<T, kWidth> input = {static_cast<const T*>(f.x) + start,
                                     f.residual ? static_cast<const T*>(f.residual) + start : nullptr};
  T* residual_out = f.residual && mine ? static_cast<T*>(f.residual_out) + start : nullptr;
  float sum = 0;
  const auto take = [&](const Vector<T, kWidth>& h, int i) {
    if (residual_out) store(residual_out + i, h);
    float value[kWidth];
    to_floats(h, value);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) sum += value[n];
  };
  Vector<T, kWidth> held[kVectors];
  for_held<kWidth, kVectors>(columns, [&](int v, int i) {
    held[v] = input.read(i);
    take(held[v], i);
  });
  for_rest<kWidth, kVectors>(columns, [&](int i) { take(input.read(i), i); });
  const float mean = row_sum(sum, sums) / static_cast<float>(f.columns);
  float squares = 0;
  const auto add_squares = [&](const Vector<T, kWidth>& h) {
    float value[kWidth];
    to_floats(h, value);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) squares = fmaf(value[n] - mean, value[n] - mean, squares);
  };
  for_held<kWidth, kVectors>(columns, [&](int v, int) { add_squares(held[v]); });
  for_rest<kWidth, kVectors>(columns, [&](int i) { add_squares(input.read(i)); });
  const float variance = row_sum(squares, sums + kMostWarps) / static_cast<float>(f.columns);
  const float rstd = 1.0f / sqrtf(variance + static_cast<float>(f.eps));
  if (!mine) return;
  if (threadIdx.x == 0) {
    static_cast<float*>(f.mean)[row] = mean;
    static_cast<float*>(f.rstd)[row] = rstd;
  }
  const auto scale = [&](const Vector<T, kWidth>& h, int i) {
    float value[kWidth], weight[kWidth], bias[kWidth];
    to_floats(h, value);
    load_or_zeros<T>(f.weight, i, weight);
    load_or_zeros<T>(f.bias, i, bias);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] = fmaf((value[n] - mean) * rstd, weight[n], bias[n]);
    store(static_cast<T*>(f.y) + start + i, from_floats<T, kWidth>(value));
  };
  for_held<kWidth, kVectors>(columns, [&](int v, int i) { scale(held[v], i); });
  for_rest<kWidth, kVectors>(columns, [&](int i) { scale(input.read(i), i); });
}

// What a backward block adds up over its rows: each is (parts, columns).
struct PartialBackward {
  Backward b;
  float *grad_weight, *grad_bias;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(gpu::kRowThreads) layer_norm_backward(const PartialBackward p) {
  using namespace gpu;
  GPU_SHARED(float, sums, 4 * kMostWarps);
  const Backward& b = p.b;
  const int columns = static_cast<int>(b.columns);
  const float share = 1.0f / static_cast<float>(b.columns);
  constexpr int kVectors = kHeldBackward / kWidth;
  float grad_weight[kVectors][kWidth] = {}, grad_bias[kVectors][kWidth] = {};
  int turn = 0;  // arrays of sums by turns, so that no barrier is needed after they are read
  for (int64_t row = blockIdx.x; row < b.rows; row += gridDim.x, turn ^= 1) {
    const int64_t start = row * b.columns;
    const float mean = static_cast<const float*>(b.mean)[row], rstd = static_cast<const float*>(b.rstd)[row];
    Vector<T, kWidth> h[kVectors], grad_y[kVectors];
    float sum = 0, dot = 0;
    for_held<kWidth, kVectors>(columns, [&](int v, int i) {
      h[v] = load<T, kWidth>(static_cast<const T*>(b.h) + start + i);
      grad_y[v] = load<T, kWidth>(static_cast<const T*>(b.grad_y) + start + i);
      float value[kWidth], dy[kWidth], weight[kWidth];
      to_floats(h[v], value);
      to_floats(grad_y[v], dy);
      load_or_zeros<T>(b.weight, i, weight);
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        const float normalized = (value[n] - mean) * rstd, g = dy[n] * weight[n];
        grad_weight[v][n] = fmaf(dy[n], normalized, grad_weight[v][n]);
        grad_bias[v][n] += dy[n];
        sum += g;
        dot = fmaf(g, normalized, dot);
      }
    });
    float* turns_sums = sums + turn * 2 * kMostWarps;
    sum = row_sum(sum, turns_sums) * share;
    dot = row_sum(dot, turns_sums + kMostWarps) * share;
    for_held<kWidth, kVectors>(columns, [&](int v, int i) {
      float value[kWidth], dy[kWidth], weight[kWidth], more[kWidth];
      to_floats(h[v], value);
      to_floats(grad_y[v], dy);
      load_or_zeros<T>(b.weight, i, weight);
      load_or_zeros<T>(b.grad_residual_out, start + i, more);
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        const float normalized = (value[n] - mean) * rstd;
        value[n] = rstd * (dy[n] * weight[n] - sum - normalized * dot) + more[n];
      }
      store(static_cast<T*>(b.grad_x) + start + i, from_floats<T, kWidth>(value));
    });
  }
  const int64_t line = int64_t{blockIdx.x} * b.columns;
  for_held<kWidth, kVectors>(columns, [&](int v, int i) {
#pragma unroll
    for (int n = 0; n < kWidth; ++n) {
      p.grad_weight[line + i + n] = grad_weight[v][n];
      p.grad_bias[line + i + n] = grad_bias[v][n];
    }
  });
}

}  // namespace pyllm::layer_norm
