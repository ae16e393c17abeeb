#include "core/gpu_launch.h"
#include "ops/rope/cuda.cuh"

namespace pyllm::rope {
namespace {

template <class T>
void rotate_as(const Rotation& r) {
  constexpr int kWidth = gpu::kVector<T>;
  const bool vectors = r.pairs % kWidth == 0 && gpu::aligned<T>(r.x, r.batch_stride) &&
                       gpu::aligned<T>(r.x, r.head_stride) && gpu::aligned<T>(r.x, r.row_stride) &&
                       gpu::aligned<T>(r.out, r.head_dim) && gpu::aligned<float>(r.cos, 0) &&
                       gpu::aligned<float>(r.sin, 0);
  const gpu::Grid grid = {"rope", {r.batch, r.heads, r.length, r.head_dim}, {r.batch * r.length}, {kThreads}};
  vectors ? gpu::launch(grid, rope_rotate<T, kWidth>, r) : gpu::launch(grid, rope_rotate<T, 1>, r);
}

}  // namespace

void rotate(const Rotation& r) {
  if (r.dtype == DType::f32) rotate_as<float>(r);
  if (r.dtype == DType::bf16) rotate_as<bfloat16>(r);
  if (r.dtype == DType::f16) rotate_as<float16>(r);
}

}  // namespace pyllm::rope
