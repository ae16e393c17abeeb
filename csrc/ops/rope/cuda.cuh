// A block takes a token: its angles, read once from memory, turn the pairs of all heads.
//
//   halves        x [ a a a a | ... | b b b b | ... | tail ]        cos [ c c c c | ... ]   sin [ s s s s |
//   ... ] interleaved   x [ a b a b | a b a b | ...       | tail ]
//
// Work items are (head, kWidth pairs), two vectors of 16 bytes in and out, or single pairs where rows are not
// aligned; then the tails' elements, which are copied. Products are rounded before they are added, as
// PyTorch's own a * cos - b * sin does.
#pragma once

#include "core/gpu.h"
#include "core/gpu_vector.h"
#include "ops/rope/rope.h"

namespace pyllm::rope {

constexpr int kThreads = 128;

// Pairs (a[n], b[n]); `sign` is -1 for the inverse.
template <int kWidth>
GPU_FN void turn(float (&a)[kWidth], float (&b)[kWidth], const float* cos, const float* sin, float sign) {
  float c[kWidth], s[kWidth];
  gpu::load_floats(cos, c);
  gpu::load_floats(sin, s);
#pragma unroll
  for (int n = 0; n < kWidth; ++n) {
    const float first = a[n] * c[n] - b[n] * (sign * s[n]);
    b[n] = b[n] * c[n] + a[n] * (sign * s[n]);
    a[n] = first;
  }
}

template <class T, int kWidth>
GPU_FN void rotate_halves(const T* x, const float* cos, const float* sin, float sign, int64_t pairs, T* out) {
  using namespace gpu;
  float a[kWidth], b[kWidth];
  to_floats(load<T, kWidth>(x), a);
  to_floats(load<T, kWidth>(x + pairs), b);
  turn(a, b, cos, sin, sign);
  store(out, from_floats<T, kWidth>(a));
  store(out + pairs, from_floats<T, kWidth>(b));
}

template <class T, int kWidth>
GPU_FN void rotate_neighbours(const T* x, const float* cos, const float* sin, float sign, T* out) {
  using namespace gpu;
  float in[2][kWidth], a[kWidth], b[kWidth];  // two vectors hold kWidth pairs
  to_floats(load<T, kWidth>(x), in[0]);
  to_floats(load<T, kWidth>(x + kWidth), in[1]);
#pragma unroll
  for (int n = 0; n < kWidth; ++n) {
    a[n] = in[2 * n / kWidth][2 * n % kWidth];
    b[n] = in[(2 * n + 1) / kWidth][(2 * n + 1) % kWidth];
  }
  turn(a, b, cos, sin, sign);
#pragma unroll
  for (int n = 0; n < kWidth; ++n) {
    in[2 * n / kWidth][2 * n % kWidth] = a[n];
    in[(2 * n + 1) / kWidth][(2 * n + 1) % kWidth] = b[n];
  }
  store(out, from_floats<T, kWidth>(in[0]));
  store(out + kWidth, from_floats<T, kWidth>(in[1]));
}

// A position without a row in the tables gives NaN: nobody could wait for an error here.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) rope_rotate(const Rotation r) {
  const int64_t batch = blockIdx.x / r.length, token = blockIdx.x % r.length;
  const int64_t position = r.positions ? r.positions[batch * r.positions_batch_stride + token] : token;
  const bool known = position >= 0 && position < r.table_rows;
  const float* cos = static_cast<const float*>(r.cos) + (known ? position : 0) * r.pairs;
  const float* sin = static_cast<const float*>(r.sin) + (known ? position : 0) * r.pairs;
  const float sign = !known ? NAN : r.inverse ? -1.0f : 1.0f;
  const T* x = static_cast<const T*>(r.x) + batch * r.batch_stride + token * r.row_stride;
  T* out = static_cast<T*>(r.out) + (batch * r.heads * r.length + token) * r.head_dim;
  const int vectors = static_cast<int>(r.pairs / kWidth), heads = static_cast<int>(r.heads);
  for (int item = threadIdx.x; item < heads * vectors; item += kThreads) {
    const int64_t head = item / vectors, i = item % vectors * kWidth;
    const T* from = x + head * r.head_stride;
    T* to = out + head * r.length * r.head_dim;
    if (r.interleaved) {
      rotate_neighbours<T, kWidth>(from + 2 * i, cos + i, sin + i, sign, to + 2 * i);
    } else {
      rotate_halves<T, kWidth>(from + i, cos + i, sin + i, sign, r.pairs, to + i);
    }
  }
  const int tail = static_cast<int>(r.head_dim - 2 * r.pairs);
  for (int item = threadIdx.x; item < heads * tail; item += kThreads) {
    const int64_t head = item / tail, i = 2 * r.pairs + item % tail;
    out[head * r.length * r.head_dim + i] = x[head * r.head_stride + i];
  }
}

}  // namespace pyllm::rope
