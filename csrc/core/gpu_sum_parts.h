// The last step of a sum over rows, as of a norm's weight gradient: blocks leave a line of sums each, here
// the lines are added in order, so that bits depend on the shape alone.
#pragma once

#include "core/gpu.h"
#include "core/gpu_launch.h"
#include "core/gpu_ptx.h"

namespace pyllm::gpu {

constexpr int kSumThreads = 128;
constexpr int64_t kChain = 16;  // terms: one sum of 256 has several times the error of a tree's

template <class T>
__global__ void __launch_bounds__(kSumThreads)
    sum_parts_kernel(const float* parts, int64_t count, int64_t columns, T* sum) {
  const int64_t i = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  if (i >= columns) return;
  float total = 0;
  for (int64_t first = 0; first < count; first += kChain) {
    const int64_t last = first + kChain < count ? first + kChain : count;
    float chain = 0;
    for (int64_t part = first; part < last; ++part) chain += parts[part * columns + i];
    total += chain;
  }
  sum[i] = from_float<T>(total);
}

// parts (count, columns) to sum (columns,).
template <class T>
void sum_parts(const char* op, const float* parts, int64_t count, int64_t columns, T* sum) {
  launch({op, {count, columns}, {ceil_div(columns, kSumThreads)}, {kSumThreads}}, sum_parts_kernel<T>, parts,
         count, columns, sum);
}

}  // namespace pyllm::gpu
