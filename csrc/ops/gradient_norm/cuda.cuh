// A block adds up the squares of kBlock elements of a tensor in floats; one block then adds all of these in
// doubles, so that bits depend on shapes alone. Memory sees every element once.
#pragma once

#include "core/gpu.h"
#include "core/gpu_reduce.h"
#include "core/gpu_tensor_list.h"
#include "core/gpu_vector.h"
#include "ops/gradient_norm/gradient_norm.h"

namespace pyllm::gradient_norm {

constexpr int kThreads = 256;
constexpr int kSumThreads = 1024;

struct Part {
  const void* data;
  int64_t count;
  float* sums;  // one for every kBlock elements
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) squares(const gpu::TensorList<Part> list) {
  using namespace gpu;
  GPU_SHARED(float, sums, kMostWarps);
  const Place place = my_place(list);
  const Part& part = list.entry[place.entry];
  const int64_t begin = place.block * kBlock, left = part.count - begin;
  const int count = static_cast<int>(left < kBlock ? left : kBlock);
  const T* data = static_cast<const T*>(part.data) + begin;
  float chains[kWidth] = {};
  constexpr int kVectors = static_cast<int>(kBlock) / (kThreads * kWidth);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int i = (v * kThreads + threadIdx.x) * kWidth;
    if (i + kWidth <= count) {
      float x[kWidth];
      to_floats(load<T, kWidth>(data + i), x);
#pragma unroll
      for (int n = 0; n < kWidth; ++n) chains[n] = fmaf(x[n], x[n], chains[n]);
    } else {
      for (int n = i; n < count; ++n) chains[0] = fmaf(to_float(data[n]), to_float(data[n]), chains[0]);
    }
  }
  float sum = 0;
#pragma unroll
  for (int n = 0; n < kWidth; ++n) sum += chains[n];
  sum = row_sum(sum, sums);
  if (threadIdx.x == 0) part.sums[place.block] = sum;
}

// One block.
__global__ void __launch_bounds__(kSumThreads) root_of_sum(const float* sums, int64_t count, float* norm) {
  using namespace gpu;
  GPU_SHARED(double, warps, kMostWarps);
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) total += sums[i];
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    total += __shfl_xor_sync(kAllLanes, total, distance);
  }
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = total;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int i = 1; i < kSumThreads / kWarp; ++i) total += warps[i];
  *norm = static_cast<float>(sqrt(total));
}

}  // namespace pyllm::gradient_norm
