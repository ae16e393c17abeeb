// The scalar level: what the compiler makes of plain loops for the baseline of the architecture.
#include <cstring>

#include "bench/peaks.h"
#include "bench/register_loop.h"

namespace pyllm::peaks {
namespace {

void multiply_add(int64_t rounds) {
  run_chains(rounds, 1.0f, [](float& x) { x = x * 0.5f + 1.0f; });
}

float read_floats(const float* data, int64_t count) {
  float sums[16] = {};
  for (int64_t i = 0; i + 16 <= count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) sums[lane] += data[i + lane];
  }
  float total = 0;
  for (float sum : sums) total += sum;
  for (int64_t i = count / 16 * 16; i < count; ++i) total += data[i];
  return total;
}

void copy_floats(const float* from, float* to, int64_t count) {
  std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace

extern const Kernels kernels_scalar;
const Kernels kernels_scalar = {{"fma_fp32", 2 * kChains, multiply_add}, read_floats, copy_floats};

}  // namespace pyllm::peaks
