// A paged KV cache on CUDA, of 16-bit elements in the layout of packed_kv.h: writing into it, and the forward
// pass over it. As in cuda.h nothing here waits for the device: tokens whose position or page does not exist
// are not written, and page numbers are clamped to the cache.
#pragma once

#include "ops/attention/cuda.h"
#include "ops/attention/packed_kv.h"

namespace pyllm::attention {

// Largest head_dim and value_dim of the forward pass; both must be multiples of 8. At 256 queries and sums
// would not fit into the registers of a warp.
constexpr int kLargestPagedDim = 128;

struct CudaPages {
  void* data;  // a multiple of 16 bytes, as both strides
  PageLayout layout;
  int64_t page_stride, head_stride;  // elements
  int64_t pages;
  Integers table;  // (sequences, columns)
  int64_t columns;
};

struct CudaWriteKv {
  int64_t sequences, batch, kv_heads, q_len;  // all tokens of a packed batch
  Heads k, v;                                 // rows of dense 16-bit elements
  CudaPages pages;
  Integers positions;  // (batch * q_len,); negative: padding
  Integers q_borders;  // (sequences + 1,), of a packed batch
};

struct CudaPaged {
  CudaForward forward;  // without k, v and k_borders; kv_len is the table's capacity, kv_lengths is given
  CudaPages pages;
};

void write_kv(const CudaWriteKv&);
void forward(const CudaPaged&);

}  // namespace pyllm::attention
