#include "core/gpu_launch.h"
#include "core/gpu_sum_parts.h"
#include "ops/rms_norm/cuda.cuh"

namespace pyllm::rms_norm {
namespace {

template <class T, int kWidth>
void forward_with(const Forward& f) {
  const int64_t threads = gpu::row_threads(f.columns, gpu::kHeld),
                rows = threads < gpu::kBlockThreads ? gpu::kBlockThreads / threads : 1;
  gpu::launch({"rms_norm", {f.rows, f.columns}, {gpu::ceil_div(f.rows, rows)}, {threads, rows}},
              rms_norm_forward<T, kWidth>, f);
}

template <class T>
void forward_as(const Forward& f) {
  using gpu::aligned;
  const bool vectors = aligned<T>(f.x, f.columns) && aligned<T>(f.residual, 0) && aligned<T>(f.weight, 0) &&
                       aligned<T>(f.y, 0) && aligned<T>(f.residual_out, 0);
  vectors ? forward_with<T, gpu::kVector<T>>(f) : forward_with<T, 1>(f);
}

template <class T, int kWidth>
void backward_with(const Backward& b) {
  constexpr int64_t kMostColumns = kHeldBackward<T, kWidth> * gpu::kRowThreads;
  if (b.columns > kMostColumns) {
    throw std::runtime_error("pyllm::rms_norm: on CUDA the gradient takes at most " +
                             std::to_string(kMostColumns) + " columns, got " + std::to_string(b.columns));
  }
  const int64_t parts = b.rows < gpu::kParts ? b.rows : gpu::kParts;
  const PartialBackward p = {b, gpu::allocate<float>(parts * b.columns)};
  gpu::launch(
      {"rms_norm", {b.rows, b.columns}, {parts}, {gpu::row_threads(b.columns, kHeldBackward<T, kWidth>)}},
      rms_norm_backward<T, kWidth>, p);
  gpu::sum_parts("rms_norm", p.partial, parts, b.columns, static_cast<T*>(b.grad_weight));
}

template <class T>
void backward_as(const Backward& b) {
  using gpu::aligned;
  const bool vectors = aligned<T>(b.h, b.columns) && aligned<T>(b.grad_y, 0) && aligned<T>(b.weight, 0) &&
                       aligned<T>(b.grad_residual_out, 0) && aligned<T>(b.grad_x, 0);
  vectors ? backward_with<T, gpu::kVector<T>>(b) : backward_with<T, 1>(b);
}

}  // namespace

void forward(const Forward& f) {
  if (f.dtype == DType::f32) forward_as<float>(f);
  if (f.dtype == DType::bf16) forward_as<bfloat16>(f);
  if (f.dtype == DType::f16) forward_as<float16>(f);
}

void backward(const Backward& b) {
  if (b.dtype == DType::f32) backward_as<float>(b);
  if (b.dtype == DType::bf16) backward_as<bfloat16>(b);
  if (b.dtype == DType::f16) backward_as<float16>(b);
}

}  // namespace pyllm::rms_norm
