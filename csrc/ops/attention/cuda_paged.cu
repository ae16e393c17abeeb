#include "core/gpu_launch.h"
#include "ops/attention/cuda_paged.cuh"

namespace pyllm::attention {
namespace {

template <class T, int kDim>
void forward_with(const CudaPaged& p) {
  const CudaForward& f = p.forward;
  const int64_t rows = f.q_len * (f.heads / f.kv_heads);
  // Of a packed batch only the number of all tokens is known here: a tile more per sequence is enough.
  const int64_t tiles =
      f.q_borders.data ? rows / kPagedRows + f.sequences : gpu::ceil_div(rows, kPagedRows) * f.sequences;
  const int64_t splits = gpu::ceil_div(f.kv_len, kSplit), partials = tiles * f.kv_heads * splits * kPagedRows;
  const Partial partial = {gpu::allocate<float>(partials * f.value_dim), gpu::allocate<float>(partials),
                           static_cast<int>(splits)};
  const std::array<int64_t, 5> shape = {f.sequences, f.heads, f.q_len, f.kv_len, f.head_dim};
  gpu::launch({"paged_attention", shape, {tiles, f.kv_heads, splits}, {kThreads}, kPagedBytes<kDim>},
              attention_paged<T, kDim>, p, partial);
  gpu::launch({"paged_attention", shape, {tiles, f.kv_heads}, {kThreads}}, attention_combine<T>, f, partial);
}

template <class T>
void forward_as(const CudaPaged& p) {
  const int64_t dim = p.forward.head_dim > p.forward.value_dim ? p.forward.head_dim : p.forward.value_dim;
  dim <= 64 ? forward_with<T, 64>(p) : forward_with<T, kLargestPagedDim>(p);
}

}  // namespace

void forward(const CudaPaged& p) {
  p.forward.dtype == DType::bf16 ? forward_as<bfloat16>(p) : forward_as<float16>(p);
}

void write_kv(const CudaWriteKv& w) {
  gpu::launch(
      {"write_kv_", {w.batch, w.kv_heads, w.q_len, w.pages.layout.head_dim}, {w.batch * w.q_len}, {kThreads}},
      attention_write_kv, w);
}

}  // namespace pyllm::attention
