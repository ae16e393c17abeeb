// CUDA's language for kernels, the real one under nvcc, otherwise the simulator's (tests/cuda/simulator),
// where g++ compiles the same kernels and runs them block by block. Kernels include this and the other
// gpu_*.h, nothing of CUDA's.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

#ifdef __CUDACC__
#define GPU_SITE
#define GPU_HERE
#define GPU_SHARED(T, name, count) __shared__ T name[count]
#define GPU_DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(128) unsigned char gpu_shared[]; \
  T* const name = reinterpret_cast<T*>(gpu_shared)
#else
#include "simulator/cuda.h"
#endif

// A function of kernels.
#define GPU_FN __device__ __forceinline__

namespace pyllm::gpu {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

}  // namespace pyllm::gpu
