#include "core/gpu_launch.h"
#include "ops/attention/cuda.cuh"

namespace pyllm::attention {
namespace {

template <class T, int kDim>
void forward_with(const CudaForward& f) {
  constexpr int kRows = Shape<kDim>::kRows;
  const int64_t rows = f.q_len * (f.heads / f.kv_heads);
  // Of a packed batch only the number of all tokens is known here: a tile more per sequence is enough.
  const int64_t tiles =
      f.q_borders.data ? rows / kRows + f.sequences : gpu::ceil_div(rows, kRows) * f.sequences;
  gpu::launch({"attention",
               {f.sequences, f.heads, f.q_len, f.kv_len, f.head_dim},
               {tiles, f.kv_heads},
               {kThreads},
               Shape<kDim>::kBytes},
              attention_forward<T, kDim>, f);
}

template <class T>
void forward_as(const CudaForward& f) {
  const int64_t dim = f.head_dim > f.value_dim ? f.head_dim : f.value_dim;
  if (dim <= 64) return forward_with<T, 64>(f);
  if (dim <= 96) return forward_with<T, 96>(f);
  if (dim <= 128) return forward_with<T, 128>(f);
  forward_with<T, 256>(f);
}

}  // namespace

void forward(const CudaForward& f) {
  f.dtype == DType::bf16 ? forward_as<bfloat16>(f) : forward_as<float16>(f);
}

}  // namespace pyllm::attention
