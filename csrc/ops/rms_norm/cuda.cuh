// blockDim.x threads take a row, blockDim.y rows a block. A thread holds up to kHeld of a row's elements in
// registers, in vectors of kWidth (16 bytes, or single elements where rows are not aligned), neighbours side
// by side:
//
//   element     0      kWidth   ...   blockDim.x kWidth       ...   held                    columns
//               +--------+--------+---+--------+--------+----+------+--------------------------+
//               |thread 0|thread 1|...|thread 0|thread 1|... |      |  forward: read once more |
//               +--------+--------+---+--------+--------+----+------+--------------------------+
//
// forward    h = x + residual into registers, and out;  row_sum of h^2;  y = h rstd (weight + offset)
// backward   a block walks rows part, part + parts, ...; for each
//              row_sum of dy gain h rstd;  dx;  dweight of its own columns += dy h rstd, in registers
//            and stores one line of dweights;  sum_parts adds the parts' lines in order.
//
// Memory sees every element of a row once: 2 elements a component forward (4 with a residual), 3 (4)
// backward.
#pragma once

#include "core/gpu.h"
#include "core/gpu_reduce.h"
#include "core/gpu_vector.h"
#include "ops/rms_norm/rms_norm.h"

namespace pyllm::rms_norm {

constexpr int kHeld = 32;  // elements of a row in a thread's registers
// Backward keeps h, dy and dweight, and only vectors of 16-bit elements hold two in a register.
template <class T, int kWidth>
constexpr int kHeldBackward = sizeof(T) == 2 && kWidth > 1 ? kHeld : kHeld / 2;
constexpr int kRowThreads = 512;    // most: 128 registers each
constexpr int kBlockThreads = 128;  // of several short rows together
constexpr int kParts = 256;         // most, of the rows: lines of dweights

template <class T, int kWidth>
__global__ void __launch_bounds__(kRowThreads) rms_norm_forward(const Forward f) {
  using namespace gpu;
  GPU_SHARED(float, sums, kMostWarps);
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const bool mine = row < f.rows;  // the others only keep the barriers company
  const int columns = static_cast<int>(f.columns), step = blockDim.x * kWidth, first = threadIdx.x * kWidth;
  const int64_t start = (mine ? row : 0) * f.columns;
  const T* x = static_cast<const T*>(f.x) + start;
  const T* residual = f.residual ? static_cast<const T*>(f.residual) + start : nullptr;
  T* residual_out = f.residual && mine ? static_cast<T*>(f.residual_out) + start : nullptr;
  // h at column i, to be stored by whom it belongs to.
  const auto read = [&](int i) {
    Vector<T, kWidth> h = load<T, kWidth>(x + i);
    if (!residual) return h;
    const Vector<T, kWidth> r = load<T, kWidth>(residual + i);
    float sum[kWidth], more[kWidth];
    to_floats(h, sum);
    to_floats(r, more);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) sum[n] += more[n];
    return from_floats<T, kWidth>(sum);
  };
  float squares = 0;
  const auto add_squares = [&](const Vector<T, kWidth>& h) {
    float value[kWidth];
    to_floats(h, value);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) squares = fmaf(value[n], value[n], squares);
  };
  Vector<T, kWidth> held[kHeld / kWidth];
#pragma unroll
  for (int v = 0; v < kHeld / kWidth; ++v) {
    const int i = first + v * step;
    if (i >= columns) continue;
    held[v] = read(i);
    if (residual_out) store(residual_out + i, held[v]);
    add_squares(held[v]);
  }
  const int rest = first + kHeld / kWidth * step;
  for (int i = rest; i < columns; i += step) {
    const Vector<T, kWidth> h = read(i);
    if (residual_out) store(residual_out + i, h);
    add_squares(h);
  }
  const float mean = row_sum(squares, sums) / static_cast<float>(f.columns);
  const float rstd = 1.0f / sqrtf(mean + static_cast<float>(f.eps));
  if (!mine) return;
  if (threadIdx.x == 0) static_cast<float*>(f.rstd)[row] = rstd;
  const float offset = static_cast<float>(f.weight_offset);
  const auto scale = [&](const Vector<T, kWidth>& h, int i) {
    float value[kWidth], weight[kWidth];
    to_floats(h, value);
    to_floats(load<T, kWidth>(static_cast<const T*>(f.weight) + i), weight);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] = value[n] * rstd * (weight[n] + offset);
    store(static_cast<T*>(f.y) + start + i, from_floats<T, kWidth>(value));
  };
#pragma unroll
  for (int v = 0; v < kHeld / kWidth; ++v) {
    const int i = first + v * step;
    if (i >= columns) continue;
    scale(held[v], i);
  }
  for (int i = rest; i < columns; i += step) scale(read(i), i);
}

// What a backward block adds up over its rows: partial is (parts, columns).
struct PartialBackward {
  Backward b;
  float* partial;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kRowThreads) rms_norm_backward(const PartialBackward p) {
  using namespace gpu;
  GPU_SHARED(float, sums, 2 * kMostWarps);
  const Backward& b = p.b;
  const int columns = static_cast<int>(b.columns), step = blockDim.x * kWidth, first = threadIdx.x * kWidth;
  const float offset = static_cast<float>(b.weight_offset);
  constexpr int kVectors = kHeldBackward<T, kWidth> / kWidth;
  float grad_weight[kVectors][kWidth] = {};
  int turn = 0;  // two arrays of sums by turns, so that one barrier a row is enough
  for (int64_t row = blockIdx.x; row < b.rows; row += gridDim.x, turn ^= 1) {
    const int64_t start = row * b.columns;
    const float rstd = static_cast<const float*>(b.rstd)[row];
    Vector<T, kWidth> h[kVectors], grad_y[kVectors];
    float dot = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int i = first + v * step;
      if (i >= columns) continue;
      h[v] = load<T, kWidth>(static_cast<const T*>(b.h) + start + i);
      grad_y[v] = load<T, kWidth>(static_cast<const T*>(b.grad_y) + start + i);
      float value[kWidth], dy[kWidth], weight[kWidth];
      to_floats(h[v], value);
      to_floats(grad_y[v], dy);
      to_floats(load<T, kWidth>(static_cast<const T*>(b.weight) + i), weight);
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        const float normalized = value[n] * rstd;
        grad_weight[v][n] = fmaf(dy[n], normalized, grad_weight[v][n]);
        dot = fmaf(dy[n] * (weight[n] + offset), normalized, dot);
      }
    }
    const float shrink = rstd * rstd * row_sum(dot, sums + turn * kMostWarps) / static_cast<float>(b.columns);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int i = first + v * step;
      if (i >= columns) continue;
      float value[kWidth], dy[kWidth], weight[kWidth], more[kWidth] = {};
      to_floats(h[v], value);
      to_floats(grad_y[v], dy);
      to_floats(load<T, kWidth>(static_cast<const T*>(b.weight) + i), weight);
      if (b.grad_residual_out) {
        to_floats(load<T, kWidth>(static_cast<const T*>(b.grad_residual_out) + start + i), more);
      }
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        value[n] = dy[n] * (weight[n] + offset) * rstd - value[n] * shrink + more[n];
      }
      store(static_cast<T*>(b.grad_x) + start + i, from_floats<T, kWidth>(value));
    }
  }
  float* line = p.partial + blockIdx.x * b.columns;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int n = 0; n < kWidth; ++n) {
      const int i = first + v * step + n;
      if (i < columns) line[i] = grad_weight[v][n];
    }
  }
}

}  // namespace pyllm::rms_norm
