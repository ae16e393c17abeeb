#include "core/gpu_launch.h"
#include "ops/attention/cuda_backward.cuh"

namespace pyllm::attention {
namespace {

gpu::Grid grid_of(const CudaForward& f, const gpu::Size& blocks, const gpu::Size& threads, size_t bytes) {
  return {
      "attention_backward", {f.sequences, f.heads, f.q_len, f.kv_len, f.head_dim}, blocks, threads, bytes};
}

template <class T>
Statistics statistics_of(const CudaBackward& b) {
  const CudaForward& f = b.forward;
  const int64_t rows = (f.q_borders.data ? 1 : f.sequences) * f.heads * f.q_len;
  const Statistics statistics = {gpu::allocate<float>(rows), gpu::allocate<float>(rows)};
  int64_t lanes = 1;
  while (lanes * 8 < f.value_dim) lanes *= 2;
  const int64_t rows_of_block = kThreads / lanes;
  gpu::launch(grid_of(f, {gpu::ceil_div(rows, rows_of_block)}, {lanes, rows_of_block}, 0),
              attention_deltas<T>, b, statistics);
  return statistics;
}

template <class T, int kDim>
void backward_with(const CudaBackward& b, const Statistics& statistics) {
  using Shape = BackwardShape<kDim>;
  const CudaForward& f = b.forward;
  // Of a packed batch only the number of all tokens is known here: a tile more per sequence is enough.
  const auto tiles = [&](int64_t count) {
    return f.q_borders.data ? count / Shape::kOwn + f.sequences
                            : gpu::ceil_div(count, Shape::kOwn) * f.sequences;
  };
  gpu::launch(grid_of(f, {tiles(f.q_len * (f.heads / f.kv_heads)), f.kv_heads}, {kThreads}, Shape::kBytes),
              attention_grad_q<T, kDim>, b, statistics);
  gpu::launch(grid_of(f, {tiles(f.kv_len), f.kv_heads, kDim / Shape::kColumns}, {kThreads}, Shape::kBytes),
              attention_grad_kv<T, kDim>, b, statistics);
}

template <class T>
void backward_as(const CudaBackward& b) {
  const CudaForward& f = b.forward;
  const Statistics statistics = statistics_of<T>(b);
  if (b.grad_sink) {
    gpu::launch(grid_of(f, {f.heads}, {kSinkThreads}, 0), attention_grad_sink, b, statistics);
  }
  const int64_t dim = f.head_dim > f.value_dim ? f.head_dim : f.value_dim;
  if (dim <= 64) return backward_with<T, 64>(b, statistics);
  if (dim <= 96) return backward_with<T, 96>(b, statistics);
  if (dim <= 128) return backward_with<T, 128>(b, statistics);
  backward_with<T, 256>(b, statistics);
}

}  // namespace

void backward(const CudaBackward& b) {
  b.forward.dtype == DType::bf16 ? backward_as<bfloat16>(b) : backward_as<float16>(b);
}

}  // namespace pyllm::attention
