// Kernels that are wrong on purpose, for tests/cuda/test_simulator.py: simulator_misuse NAME runs one of
// them. Each is run by 32 or 64 threads of one block with a vector of zeros in global memory.
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "core/gpu.h"
#include "core/gpu_launch.h"
#include "core/gpu_ptx.h"

namespace pyllm::test {
namespace {

using gpu::kAllLanes;

int thread() { return static_cast<int>(threadIdx.x); }

void early_return(float* x) {
  if (thread() == 3) return;
  x[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}
void barrier_after_return(float*) {
  if (thread() == 0) return;
  __syncthreads();
}
void split_barrier(float*) {
  if (thread() < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
void divergent_shuffle(float* x) {
  if (thread() < 16) x[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
  __syncthreads();
}
void two_operations(float* x) {
  if (thread() < 16) {
    x[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
  } else {
    __syncwarp();
  }
}
void not_in_mask(float*) { __syncwarp(0xffffu); }
void forgotten_wait(float* x) {
  GPU_SHARED(uint4, shared, 64);
  gpu::copy_async<16>(&shared[thread()], x, true);
  gpu::commit_copies();
}
void misaligned_copy(float* x) {
  GPU_SHARED(uint4, shared, 64);
  gpu::copy_async<16>(&shared[thread()], x + 1, true);
}
void misaligned_matrix(float*) {
  GPU_SHARED(uint4, shared, 64);
  uint32_t r[4];
  gpu::ldmatrix<false>(r, reinterpret_cast<char*>(shared) + 2);
}
void too_much_shared(float*) { GPU_SHARED(float, shared, 13000); }

// What these read is NaN, because it has not been written yet.
void poisoned_shared(float* x) {
  GPU_SHARED(float, shared, 64);
  if (thread() == 0) x[0] = shared[5];
}
void late_copy(float* x) {
  GPU_SHARED(uint4, shared, 64);
  gpu::copy_async<16>(&shared[thread()], x, true);
  gpu::commit_copies();
  float landed;
  std::memcpy(&landed, &shared[thread()], sizeof landed);
  gpu::wait_for_copies<0>();
  if (thread() == 0) x[0] = landed;
}

// For the thread sanitizer.
void race(float* x) {
  GPU_SHARED(float, shared, 64);
  shared[thread()] = 1.0f;
  x[thread()] = shared[63 - thread()];
}
void warp_race(float* x) {
  GPU_SHARED(float, shared, 64);
  shared[thread()] = 1.0f;
  __shfl_xor_sync(kAllLanes, 1.0f, 1);  // exchanges registers, orders nothing
  x[thread()] = shared[thread() ^ 1];
}
void race_after_barrier(float* x) {
  GPU_SHARED(float, shared, 64);
  shared[thread()] = 1.0f;
  __syncthreads();
  x[thread()] = shared[63 - thread()];
  shared[thread()] = 2.0f;
}
void no_race(float* x) {
  GPU_SHARED(float, shared, 64);
  shared[thread()] = 1.0f;
  __syncwarp();
  x[thread()] = shared[thread() ^ 1];
  __syncthreads();
  shared[63 - thread()] = 2.0f;
}
void nothing(float*) {}

struct Misuse {
  const char* name;
  void (*kernel)(float*);
  int64_t threads = 64;
};
constexpr Misuse kAll[] = {{"early_return", early_return, 32},
                           {"barrier_after_return", barrier_after_return},
                           {"split_barrier", split_barrier},
                           {"divergent_shuffle", divergent_shuffle, 32},
                           {"two_operations", two_operations, 32},
                           {"not_in_mask", not_in_mask, 32},
                           {"forgotten_wait", forgotten_wait},
                           {"misaligned_copy", misaligned_copy},
                           {"misaligned_matrix", misaligned_matrix},
                           {"too_much_shared", too_much_shared},
                           {"too_many_threads", nothing, 1056},
                           {"poisoned_shared", poisoned_shared},
                           {"late_copy", late_copy},
                           {"race", race},
                           {"warp_race", warp_race},
                           {"race_after_barrier", race_after_barrier},
                           {"no_race", no_race}};

}  // namespace
}  // namespace pyllm::test

int main(int count, char** arguments) {
  using namespace pyllm;
  alignas(16) static float zeros[128];
  for (const test::Misuse& misuse : test::kAll) {
    if (count < 2 || std::string(misuse.name) != arguments[1]) continue;
    try {
      gpu::launch({misuse.name, {}, {1}, {misuse.threads}}, misuse.kernel, +zeros);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
    std::printf("%s\n", zeros[0] != zeros[0] ? "nan" : "a number");
    return 0;
  }
  return 2;
}
