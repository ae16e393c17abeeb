// Scaled dot-product attention with an interval mask (core/mask.h), an optional dense mask, grouped heads,
// ragged batches and paged keys and values.
//
//   x = scale * q k^T;  x = softcap * tanh(x / softcap);  x -= slope * |p - j|;  x += mask;  hidden x = -inf
//   lse = log(sum_j e^x + e^sink);  w = e^(x - lse);  out = dropout(w) v
//
// A query at row i of its sequence stands at key position p = i + kv_len - q_len. A row without visible keys
// gives zero output and gradient; NaN and infinity in an invisible key or value touch nothing.
//
// The caller owns every tensor. Innermost dimensions are contiguous; other strides are free and count
// elements. Accumulators are double for f64 and float otherwise.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/mask.h"
#include "ops/attention/packed_kv.h"

namespace pyllm::attention {

// Keys are counted from the sequence's first in blocks of this many. Each block's softmax stands alone and
// blocks are merged left to right, so that a row's bits depend neither on its neighbours nor on chunking.
constexpr int64_t kBlock = 256;

// Rows of a tile: queries of one range, for all the heads that share a kv head. 96 is a multiple of the
// register tiles' 12 and 6 rows; at head size 64 the tile's scores, weights and sums take about 150 KB.
constexpr int64_t kTileRows = 96;

// A (batch, heads, tokens, dim) tensor.
struct Heads {
  void* data;
  int64_t batch, head, token;  // strides
};

// Broadcast dimensions have stride 0.
struct MaskStrides {
  int64_t batch, head, query, key;
};

struct DenseMask {
  const void* data;  // null without a mask
  bool boolean;      // one byte each, nonzero = attend; otherwise `dtype`, added to the scores
  DType dtype;
  MaskStrides strides;
};

// One row of a padded batch, or one sequence of a packed one. Everything but the two counts at the end is set
// by the caller.
struct Sequence {
  int64_t batch;                        // index into the tensors' batch dimension
  int64_t first_query, q_len;           // tokens of q, out, lse
  int64_t first_key, kv_len;            // tokens of k and v
  int64_t prefix;                       // keys visible to all of its queries
  int64_t tiles_before, blocks_before;  // tiles and key blocks of the sequences before this one
  int64_t first_page = 0;               // of a paged cache: its place in the table; first_key is then 0
};

struct Problem {
  DType dtype;
  int64_t sequences, heads, kv_heads, head_dim, value_dim;
  int64_t tokens;  // of q per batch row: lse is (batch, heads, tokens)
  Sequence* sequence;
  Heads q, k, v;
  IntervalMask intervals;
  DenseMask mask;
  const double* sink_logits;   // (heads,) or null
  const double* alibi_slopes;  // (heads,) or null
  double scale, softcap;       // softcap 0 means none
  double dropout_p;
  uint64_t seed;
  int64_t tiles, blocks;  // of all sequences; set by dispatch.cpp
  PagedKeys pages = {};   // where it holds data, keys and values come from it and k and v are unused
};

struct Forward {
  Problem problem;
  Heads out;
  void* lse;  // accumulators
};

struct Backward {
  Problem problem;
  Heads out, grad_out;
  const void* lse;
  const void* grad_lse;          // accumulators, laid out as lse; may be null
  Heads grad_q, grad_k, grad_v;  // every row of a sequence is written
  // In the mask's own shape, zero on entry, null if not wanted. Double, because where the mask broadcasts an
  // element may sum all of the scores.
  double* grad_mask;
  MaskStrides grad_mask_strides;
  void* grad_sink;  // (heads,) accumulators; null without sinks
};

// Tokens on their way into a paged cache.
struct WriteKv {
  // Row `row` of batch row `batch` of k and v goes to token `slot` of page `page`.
  struct Token {
    int64_t batch, row, page, slot;
  };
  DType dtype;
  int64_t kv_heads;
  Heads k, v;
  void* data;
  PageLayout layout;
  int64_t page_stride, head_stride;  // of data, elements, of codes bytes
  const Token* token;
  int64_t tokens;
  KvCode code = KvCode::none;
};

struct Kernels {
  void (*forward)(const Forward&);
};
struct BackwardKernels {
  void (*backward)(const Backward&);
};

extern const Kernels kernels_scalar;
extern const BackwardKernels backward_kernels_scalar;

void forward(Forward);
void backward(Backward);
void write_kv(const WriteKv&);

}  // namespace pyllm::attention
