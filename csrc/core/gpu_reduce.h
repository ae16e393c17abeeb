// Sums over the lanes of a warp and over the warps that share a row.
#pragma once

#include "core/gpu.h"

namespace pyllm::gpu {

// Of all lanes, in all lanes: partners at distance 16, 8, 4, 2, 1 add each other's sum, so that all have the
// same bits.
GPU_FN float warp_sum(float x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

constexpr int kMostWarps = 32;

// Of the blockDim.x threads of a row threadIdx.y, in each of them; blockDim.x is a multiple of 32. Calls in
// turn need shared arrays of their own, or a barrier between.
GPU_FN float row_sum(float x, float* shared) {
  x = warp_sum(x);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (warps == 1) return x;
  float* row = shared + threadIdx.y * warps;
  if (threadIdx.x % kWarp == 0) row[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = row[0];
  for (int i = 1; i < warps; ++i) x += row[i];
  return x;
}

}  // namespace pyllm::gpu
