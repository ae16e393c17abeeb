// How a kernel is launched: a function instead of <<<>>>, so that the arithmetic of grids is tested on a CPU
// too.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/gpu_context.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <tuple>
#else
#include "simulator/run.h"
#endif

namespace pyllm::gpu {

struct Size {
  int64_t x = 1, y = 1, z = 1;
};

struct Grid {
  const char* op;  // with its shape, for errors
  std::array<int64_t, 5> shape;
  Size blocks, threads;
  size_t shared_bytes = 0;  // dynamic
};

inline std::string describe(const Grid& g) {
  const auto text = [](const Size& s) {
    return std::to_string(s.x) + " x " + std::to_string(s.y) + " x " + std::to_string(s.z);
  };
  std::string shape;
  for (int64_t n : g.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(n);
  return "pyllm::" + std::string(g.op) + " of shape (" + shape + "): launch of " + text(g.blocks) +
         " blocks of " + text(g.threads) + " threads with " + std::to_string(g.shared_bytes) +
         " bytes of shared memory";
}

// CUDA's limits, the same on every device since compute capability 3.
inline void check_grid(const Grid& g) {
  constexpr int64_t kMost = 65535;
  const bool fits = g.blocks.x < (int64_t{1} << 31) && g.blocks.y <= kMost && g.blocks.z <= kMost &&
                    g.threads.x * g.threads.y * g.threads.z <= 1024;
  if (!fits) throw std::runtime_error(describe(g) + ": too large");
}

#ifdef __CUDACC__
template <class... Parameters>
cudaError_t enqueue(const Grid& g, void (*kernel)(Parameters...), std::tuple<Parameters...>& values) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (g.shared_bytes > kWithoutAsking) {
    const cudaError_t refused = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(g.shared_bytes));
    if (refused != cudaSuccess) return refused;
  }
  const auto dimensions = [](const Size& s) {
    return dim3(static_cast<unsigned>(s.x), static_cast<unsigned>(s.y), static_cast<unsigned>(s.z));
  };
  return std::apply(
      [&](Parameters&... parameters) {
        void* pointers[] = {&parameters...};
        return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dimensions(g.blocks),
                                dimensions(g.threads), pointers, g.shared_bytes,
                                static_cast<cudaStream_t>(g_context->stream()));
      },
      values);
}
#endif

// Puts kernel(arguments...) on the current stream; nothing is waited for. An empty grid is no launch.
template <class... Parameters, class... Arguments>
void launch(const Grid& grid, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  check_grid(grid);
  std::tuple<Parameters...> values(arguments...);
#ifdef __CUDACC__
  const cudaError_t error = enqueue(grid, kernel, values);
  if (error != cudaSuccess) throw std::runtime_error(describe(grid) + ": " + cudaGetErrorString(error));
#else
  simulator::run(grid, [&] { std::apply(kernel, values); });
#endif
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace pyllm::gpu
