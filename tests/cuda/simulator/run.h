// Launches: what core/gpu_launch.h calls where there is no nvcc.
#pragma once

#include <functional>
#include <tuple>

#include "simulator/block.h"

namespace pyllm::simulator {

// `Grid` is gpu::Grid, which includes this.
template <class Grid>
void run(const Grid& grid, const std::function<void()>& kernel) {
  const auto size = [](const auto& s) {
    return Dim3{static_cast<unsigned>(s.x), static_cast<unsigned>(s.y), static_cast<unsigned>(s.z)};
  };
  run_grid(size(grid.blocks), size(grid.threads), grid.shared_bytes, kernel);
}

}  // namespace pyllm::simulator
