// Rotary position embedding (Su et al., 2021) of one tensor: each pair (a, b) of a row's components becomes
//
//   (a cos - b sin, b cos + a sin)        or, inverse, (a cos + b sin, b cos - a sin), which is also the
//   gradient
//
// Pair i of `pairs` is (i, i + pairs), or (2 i, 2 i + 1) if interleaved; components from 2 * pairs on are
// copied.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::rope {

struct Rotation {
  DType dtype;
  int64_t batch, heads, length, head_dim, pairs;  // 2 * pairs <= head_dim
  const void* x;  // (batch, heads, length, head_dim), unit stride inside a row
  int64_t batch_stride, head_stride, row_stride;  // elements
  void* out;                                      // same shape, contiguous
  const void* cos;                                // (positions, pairs), contiguous, of the accumulator type:
  const void* sin;                                // double for f64, otherwise float
  int64_t table_rows;                             // of cos and sin
  const int64_t* positions;        // row of cos and sin for (batch, token); null: the token's index
  int64_t positions_batch_stride;  // 0 if all sequences share them
  bool interleaved, inverse;
};

struct Kernels {
  void (*rotate)(const Rotation&);
};

extern const Kernels kernels_scalar;

// Positions must have been checked: rows of cos and sin are read unseen.
void rotate(const Rotation&);

// Calls f(row of out, offset of the row in x, row of cos and sin) for rows [begin, end) of batch x heads x
// length.
template <class F>
void for_each_row(const Rotation& r, int64_t begin, int64_t end, const F& f) {
  if (begin >= end) return;
  int64_t token = begin % r.length, head = begin / r.length % r.heads, batch = begin / r.length / r.heads;
  for (int64_t row = begin; row < end; ++row) {
    f(row, batch * r.batch_stride + head * r.head_stride + token * r.row_stride,
      r.positions ? r.positions[batch * r.positions_batch_stride + token] : token);
    if (++token < r.length) continue;
    token = 0;
    if (++head < r.heads) continue;
    head = 0;
    ++batch;
  }
}

}  // namespace pyllm::rope
