// The part of CUDA's language that the kernels use, for a CPU: csrc/core/gpu.h includes this where there is
// no nvcc.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "simulator/block.h"
#include "simulator/tensor_cores.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (::pyllm::simulator::thread_index())
#define blockIdx (::pyllm::simulator::block_index())
#define blockDim (::pyllm::simulator::block_size())
#define gridDim (::pyllm::simulator::grid_size())

// A device function that other threads may have to wait for takes this last, so that errors name the kernel's
// line.
#define GPU_SITE , ::pyllm::simulator::Site site = ::pyllm::simulator::Site::current()
#define GPU_HERE , site  // and passes it on
#define GPU_SHARED(T, name, count) \
  T* const name = static_cast<T*>( \
      ::pyllm::simulator::static_shared(::pyllm::simulator::Site::current(), (count) * sizeof(T)))
#define GPU_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::pyllm::simulator::dynamic_shared())

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
using std::max;
using std::min;

inline void __syncthreads(::pyllm::simulator::Site site = ::pyllm::simulator::Site::current()) {
  ::pyllm::simulator::block_barrier(site);
}
inline void __syncwarp(uint32_t mask = ~0u,
                       ::pyllm::simulator::Site site = ::pyllm::simulator::Site::current()) {
  ::pyllm::simulator::warp_barrier(mask, site);
}

namespace pyllm::simulator {

// Every lane of `mask` gets the value of lane source(own lane).
template <class T, class F>
T shuffle(uint32_t mask, const char* operation, const Site& site, T value, const F& source) {
  struct Registers {
    T value, result;
    int from;
  } mine{value, value, source(lane_index())};
  if (!(mask >> mine.from & 1)) fail(std::string(operation) + ": reads a lane that is not in its mask", site);
  exchange(mask, operation, site, mine, [mask](Registers* const* lanes) SIMULATOR_REGISTERS {
    for (int i = 0; i < 32; ++i) {
      if (mask >> i & 1) lanes[i]->result = lanes[lanes[i]->from]->value;
    }
  });
  return mine.result;
}

}  // namespace pyllm::simulator

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes,
                  ::pyllm::simulator::Site site = ::pyllm::simulator::Site::current()) {
  return ::pyllm::simulator::shuffle(mask, "__shfl_xor_sync", site, value,
                                     [=](int lane) { return lane ^ lanes; });
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int source,
              ::pyllm::simulator::Site site = ::pyllm::simulator::Site::current()) {
  return ::pyllm::simulator::shuffle(mask, "__shfl_sync", site, value, [=](int) { return source & 31; });
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
