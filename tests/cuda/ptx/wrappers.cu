// A kernel of one warp for every wrapper of core/gpu_ptx.h, for the interpreter to run what nvcc makes of
// their inline assembly.
#include "core/gpu.h"
#include "core/gpu_ptx.h"

using namespace pyllm;

namespace {

// A matrix of 16 x 16 to shared memory, 16 bytes a lane.
template <class T>
__device__ void fetch(T* to, const T* from) {
  gpu::copy_async<16>(to + threadIdx.x * 8, from + threadIdx.x * 8, true);
  gpu::commit_copies();
  gpu::wait_for_copies<0>();
  __syncwarp();
}

// c (16 x 16) += a (16 x 16) times b^T, or b if it is read transposed (16 x 16).
template <class T, bool kTransposed>
__device__ void multiply(const T* a, const T* b, float* c) {
  __shared__ __align__(16) T tiles[2][16 * 16];
  fetch(tiles[0], a);
  fetch(tiles[1], b);
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  uint32_t x[4], y[4];
  gpu::ldmatrix<false>(x, tiles[0] + lane % 16 * 16 + lane / 16 * 8);
  const int row = kTransposed ? lane % 16 : lane / 16 * 8 + lane % 8;
  const int column = kTransposed ? lane / 16 * 8 : lane / 8 % 2 * 8;
  gpu::ldmatrix<kTransposed>(y, tiles[1] + row * 16 + column);
  for (int n = 0; n < 2; ++n) {
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = c[(g + i / 2 * 8) * 16 + n * 8 + 2 * t + i % 2];
    gpu::mma<T>(d, x, y[2 * n], y[2 * n + 1]);
    for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 16 + n * 8 + 2 * t + i % 2] = d[i];
  }
}

}  // namespace

extern "C" {

__global__ void multiply_bf16(const bfloat16* a, const bfloat16* b, float* c) {
  multiply<bfloat16, false>(a, b, c);
}
__global__ void multiply_f16(const float16* a, const float16* b, float* c) {
  multiply<float16, false>(a, b, c);
}
__global__ void multiply_bf16_transposed(const bfloat16* a, const bfloat16* b, float* c) {
  multiply<bfloat16, true>(a, b, c);
}

__global__ void pack_bf16(const float* x, uint32_t* y) {
  y[threadIdx.x] = gpu::pack<bfloat16>(x[2 * threadIdx.x], x[2 * threadIdx.x + 1]);
}
__global__ void pack_f16(const float* x, uint32_t* y) {
  y[threadIdx.x] = gpu::pack<float16>(x[2 * threadIdx.x], x[2 * threadIdx.x + 1]);
}
__global__ void widen_f16(const float16* x, float* y) { y[threadIdx.x] = gpu::to_float(x[threadIdx.x]); }
__global__ void power_of_two(const float* x, float* y) { y[threadIdx.x] = gpu::exp2_fast(x[threadIdx.x]); }

// The first half of the lanes copies; the others fill with zeros and name no memory of theirs.
__global__ void copy_16(const uint32_t* x, uint32_t* y) {
  __shared__ __align__(16) uint32_t shared[32 * 4];
  const int i = threadIdx.x * 4;
  gpu::copy_async<16>(shared + i, threadIdx.x < 16 ? x + i : x, threadIdx.x < 16);
  gpu::commit_copies();
  gpu::wait_for_copies<0>();
  for (int n = 0; n < 4; ++n) y[i + n] = shared[i + n];
}
__global__ void copy_4(const uint32_t* x, uint32_t* y) {
  __shared__ uint32_t shared[32];
  gpu::copy_async<4>(shared + threadIdx.x, threadIdx.x < 16 ? x + threadIdx.x : x, threadIdx.x < 16);
  gpu::commit_copies();
  gpu::wait_for_copies<0>();
  y[threadIdx.x] = shared[threadIdx.x];
}

// Two groups, of which only the first is waited for before both are read.
__global__ void copy_groups(const uint32_t* x, uint32_t* y) {
  __shared__ uint32_t shared[2 * 32];
  for (int group = 0; group < 2; ++group) {
    gpu::copy_async<4>(shared + group * 32 + threadIdx.x, x + group * 32 + threadIdx.x, true);
    gpu::commit_copies();
  }
  gpu::wait_for_copies<1>();
  for (int group = 0; group < 2; ++group) y[group * 32 + threadIdx.x] = shared[group * 32 + threadIdx.x];
  gpu::wait_for_copies<0>();
}

}  // extern "C"
