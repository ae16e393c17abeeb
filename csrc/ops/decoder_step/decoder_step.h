// Rows of hidden states through all the layers of a decoder and its last norm, over a paged cache: what the
// single ops compute one after the other, with their kernels and their bits, as one call on one team of
// threads (core/team.h).
//
//   for layer
//     h += x;  n = norm(h)
//     q, k, v = projections of n (+ bias);  norms of the heads of q and k;  RoPE
//     k, v -> pages;  x = o_proj(attention(q, pages))                    norm(x) where norms stand on both
//     sides h += x;  n = norm(h)                                               not in a parallel block x =
//     down_proj(activation(gate_proj(n)) * up_proj(n))               norm(x) as above; + attention in a
//                                                                        parallel block
//   out = norm(h + x)
//
// h and x are rounded to the tensors' dtype between the steps, as they are between the ops. The caller owns
// every tensor.
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "formats/packed_weight.h"
#include "ops/attention/attention.h"
#include "ops/linear/linear.h"
#include "ops/swiglu/swiglu.h"

namespace pyllm::decoder_step {

struct Linear {
  int64_t inputs, outputs;
  linear::Operand weight;  // data null where the weight is quantized
  packed::Weight quantized;
  const void* bias;  // (outputs,), may be null
};

struct Norm {
  const void* weight;  // null: there is no norm here
  const void* bias;    // of a layer norm; may be null
};

struct Layer {
  Norm before_attention, query, key, after_attention, before_mlp, after_mlp;
  Linear q, k, v, o, gate, up, down;  // gate.outputs 0: the MLP is not gated
  int64_t window;                     // 0: none
  const void *cos, *sin;              // (positions, pairs), of the accumulator type; null: no RoPE
};

struct Network {
  DType dtype;
  int64_t hidden, intermediate, heads, kv_heads, head_dim;
  int64_t pairs;  // that RoPE turns
  bool interleaved, parallel_block, layer_norm;
  double eps, norm_offset;
  swiglu::Activation activation;
  double scale, softcap;  // of the scores; softcap 0 means none
  std::vector<Layer> layers;
  Norm last;
};

// Pages of one layer, and which of them the step reads and writes.
struct Cache {
  void* data;
  int64_t page_stride, head_stride;             // elements
  const int64_t* pages;                         // table of all sequences, see attention::PagedKeys
  const attention::WriteKv::Token* new_tokens;  // where the tokens' keys and values go
};

struct Step {
  int64_t tokens;
  const void* x;             // (tokens, hidden), contiguous
  void* out;                 // the same shape; not x
  const int64_t* positions;  // (tokens,) rows of cos and sin
  attention::Sequence* sequences;
  int64_t sequence_count;
  attention::PageLayout layout;
  const Cache* caches;  // one per layer
};

void run(const Network&, const Step&);

}  // namespace pyllm::decoder_step
