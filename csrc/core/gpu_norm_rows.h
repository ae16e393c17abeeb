// Rows of a norm in registers. blockDim.x threads take a row; a thread holds the vectors of kWidth elements
// (16 bytes, or single elements where rows are not aligned) that are its own, neighbours side by side:
//
//   element     0      kWidth   ...   blockDim.x kWidth       ...   held                    columns
//               +--------+--------+---+--------+--------+----+------+--------------------------+
//               |thread 0|thread 1|...|thread 0|thread 1|... |      |  rest: read from memory  |
//               +--------+--------+---+--------+--------+----+------+--------------------------+
#pragma once

#include "core/gpu.h"
#include "core/gpu_reduce.h"
#include "core/gpu_vector.h"

namespace pyllm::gpu {

constexpr int kHeld = 32;           // elements of a row in a thread's registers
constexpr int kRowThreads = 512;    // most: 128 registers each
constexpr int kBlockThreads = 128;  // of several short rows together
constexpr int kParts = 256;         // most, of the rows: lines of sums for the weight's gradient

// Threads of a row, a multiple of 32: as many as hold it, up to kRowThreads.
inline int64_t row_threads(int64_t columns, int64_t held) {
  const int64_t warps = (columns + held * kWarp - 1) / (held * kWarp), most = kRowThreads / kWarp;
  return (warps < 1 ? 1 : warps < most ? warps : most) * kWarp;
}

// Calls f(v, column) for the calling thread's held vectors; v is a constant once the loop is unrolled.
template <int kWidth, int kVectors, class F>
GPU_FN void for_held(int columns, const F& f) {
  const int first = threadIdx.x * kWidth, step = blockDim.x * kWidth;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = first + v * step;
    if (i < columns) f(v, i);
  }
}

// And f(column) for those past them.
template <int kWidth, int kVectors, class F>
GPU_FN void for_rest(int columns, const F& f) {
  const int step = blockDim.x * kWidth;
  for (int i = threadIdx.x * kWidth + kVectors * step; i < columns; i += step) f(i);
}

// h = x + residual of one row, rounded; x itself where there is no residual.
template <class T, int kWidth>
struct RowInput {
  const T *x, *residual;
  GPU_FN Vector<T, kWidth> read(int i) const {
    Vector<T, kWidth> h = load<T, kWidth>(x + i);
    if (!residual) return h;
    const Vector<T, kWidth> r = load<T, kWidth>(residual + i);
    float sum[kWidth], more[kWidth];
    to_floats(h, sum);
    to_floats(r, more);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) sum[n] += more[n];
    return from_floats<T, kWidth>(sum);
  }
};

// kWidth elements of a tensor that may be missing, as floats.
template <class T, int kWidth>
GPU_FN void load_or_zeros(const void* from, int64_t i, float (&x)[kWidth]) {
  if (from) return to_floats(load<T, kWidth>(static_cast<const T*>(from) + i), x);
#pragma unroll
  for (int n = 0; n < kWidth; ++n) x[n] = 0.0f;
}

}  // namespace pyllm::gpu
