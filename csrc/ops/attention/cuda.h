// attention.h on CUDA, for 16-bit tensors and masks that are intervals. What describes
// sequences and heads lies in device memory: nothing here waits for the device, so values cannot be checked;
// kernels clamp lengths and borders to the tensors' own.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/mask.h"
#include "ops/attention/attention.h"

namespace pyllm::attention {

// Largest head_dim and value_dim; both must be multiples of 8.
constexpr int64_t kLargestCudaDim = 256;

// A vector of int64 or int32; data is null where there is none.
struct Integers {
  const void* data;
  bool wide;
};

struct CudaForward {
  DType dtype;  // bf16 or f16
  int64_t sequences, heads, kv_heads, head_dim, value_dim;
  int64_t q_len, kv_len;  // of the tensors; all tokens of a packed batch
  Heads q, k, v, out;     // addresses are multiples of 16 bytes, strides of 8 elements
  float* lse;             // (batch, heads, q_len)
  IntervalMask intervals;
  Integers prefix, kv_lengths;              // (sequences,)
  Integers q_borders, k_borders;            // (sequences + 1,), of a packed batch
  const float *sink_logits, *alibi_slopes;  // (heads,) or null
  float scale, softcap;                     // softcap 0 means none
};

// Of the same call; `forward` holds its results.
struct CudaBackward {
  CudaForward forward;
  Heads grad_out, grad_q, grad_k,
      grad_v;             // addresses and strides as there; every row of a sequence is written
  const float* grad_lse;  // laid out as lse; may be null
  float* grad_sink;       // (heads,); null without sinks
};

void forward(const CudaForward&);
void backward(const CudaBackward&);

}  // namespace pyllm::attention
