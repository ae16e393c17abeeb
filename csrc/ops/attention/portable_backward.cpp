// Backward, at every vector level. With w the weights, g = dropout(grad_out V^T) and delta = grad_out . out
// (less the gradient of lse):
//
//   grad_score = w (g - delta)      grad_v += dropout(w)^T grad_out      grad_k += (slope grad_score)^T Q
//   slope = d score / d (q . k)     grad_q += (slope grad_score) K       grad_mask += grad_score
//
//   for each block of 256 keys:     K, V packed; grad_k, grad_v of the block in floats
//     for each tile of <= 96 rows:  weights recomputed from lse
//
// Blocks and tiles are walked in order, so every sum has one order. Where there are few sequences and heads,
// grad_k and grad_v are made block by block in parallel and grad_q tile by tile, at the price of computing
// the weights twice; the order of the sums, and so their bits, stay the same.
#include "core/levels.h"
#include "core/parallel.h"
#include "ops/attention/backward_tile.h"
#include "ops/attention/deltas.h"

namespace pyllm::attention {
namespace {

template <class T>
void write_rows(const Heads& to, const Tile& t, int64_t dim, const float* rows) {
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    from_float(rows + row * dim, query_row<T>(to, t.s, head, query), dim);
  });
}

template <class T>
void write_keys(const Heads& to, const Sequence& s, int64_t kv_head, const Block& b, int64_t dim,
                const float* rows) {
  for (int64_t key = 0; key < b.keys; ++key) {
    from_float(rows + key * dim, key_row<T>(to, s, kv_head, b.first + key), dim);
  }
}

// grad_k and grad_v of one block; where `grad_q` is given (q_len x group rows, tile by tile), also the
// block's share of it.
template <class T>
void block_backward(const Backward& b, const float* delta, const Sequence& s, int64_t kv_head, int64_t index,
                    Rows& rows, KeyBlock& block, Scratch& scratch, float* grad_k, float* grad_v,
                    float* grad_q) {
  const Problem& p = b.problem;
  const Block keys = make_block(s, index);
  load_block<T>(p, s, kv_head, keys, block);
  zero_fill(grad_k, kBlock * p.head_dim);
  zero_fill(grad_v, kBlock * p.value_dim);
  for (int64_t i = 0; i < tile_count(p, s); ++i) {
    const Tile t = make_tile(p, s, kv_head, i);
    const Columns c = visible_columns(p, t, keys);
    if (c.last == 0) continue;
    load_tile<T>(b, delta, t, rows);
    tile_gradients(p, t, rows, keys, block, c, false, scratch);
    add_over_rows(scratch.weights.get(), rows, t, keys, c, rows.packed_grad_out.get(), p.value_dim, grad_v,
                  scratch);
    add_over_rows(scratch.grads.get(), rows, t, keys, c, rows.packed_q.get(), p.head_dim, grad_k, scratch);
    if (grad_q) add_over_keys(p, t, keys, block, c, scratch, grad_q + t.first * t.group * p.head_dim);
  }
  write_keys<T>(b.grad_k, s, kv_head, keys, p.head_dim, grad_k);
  write_keys<T>(b.grad_v, s, kv_head, keys, p.value_dim, grad_v);
}

// Sequences and kv heads in parallel.
template <class T>
void run_heads(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  const int64_t tile_rows = largest_tile(p);
  int64_t longest = 0;
  for (int64_t i = 0; i < p.sequences; ++i) {
    longest = p.sequence[i].q_len > longest ? p.sequence[i].q_len : longest;
  }
  parallel_for(0, p.sequences * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    Rows rows(p, tile_rows);
    KeyBlock block(p);
    Scratch scratch(tile_rows);
    const auto grad_k = make_aligned<float>(kBlock * p.head_dim);
    const auto grad_v = make_aligned<float>(kBlock * p.value_dim);
    const auto grad_q = make_aligned<float>(longest * group_size(p) * p.head_dim);
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = p.sequence[i / p.kv_heads];
      zero_fill(grad_q.get(), s.q_len * group_size(p) * p.head_dim);
      for (int64_t index = 0; index < ceil_div(s.kv_len, kBlock); ++index) {
        block_backward<T>(b, delta, s, i % p.kv_heads, index, rows, block, scratch, grad_k.get(),
                          grad_v.get(), grad_q.get());
      }
      for (int64_t index = 0; index < tile_count(p, s); ++index) {
        const Tile t = make_tile(p, s, i % p.kv_heads, index);
        write_rows<T>(b.grad_q, t, p.head_dim, grad_q.get() + t.first * t.group * p.head_dim);
      }
    }
  });
}

template <class T>
void run_key_blocks(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  const int64_t tile_rows = largest_tile(p);
  parallel_for(0, p.blocks * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    Rows rows(p, tile_rows);
    KeyBlock block(p);
    Scratch scratch(tile_rows);
    const auto grad_k = make_aligned<float>(kBlock * p.head_dim);
    const auto grad_v = make_aligned<float>(kBlock * p.value_dim);
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = locate(p, &Sequence::blocks_before, i / p.kv_heads);
      const int64_t count = ceil_div(s.kv_len, kBlock);
      block_backward<T>(b, delta, s, i % p.kv_heads, balanced(i / p.kv_heads - s.blocks_before, count), rows,
                        block, scratch, grad_k.get(), grad_v.get(), nullptr);
    }
  });
}

template <class T>
void run_query_tiles(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  const int64_t tile_rows = largest_tile(p);
  parallel_for(0, p.tiles * p.kv_heads, 1, [&](int64_t begin, int64_t end) {
    Rows rows(p, tile_rows);
    KeyBlock block(p);
    Scratch scratch(tile_rows);
    const auto grad_q = make_aligned<float>(tile_rows * p.head_dim);
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = locate(p, &Sequence::tiles_before, i / p.kv_heads);
      const int64_t step = i / p.kv_heads - s.tiles_before;
      const Tile t = make_tile(p, s, i % p.kv_heads, balanced(step, tile_count(p, s)));
      load_tile<T>(b, delta, t, rows);
      zero_fill(grad_q.get(), row_count(t) * p.head_dim);
      for (int64_t index = 0; index < ceil_div(s.kv_len, kBlock); ++index) {
        const Block keys = make_block(s, index);
        const Columns c = visible_columns(p, t, keys);
        if (c.last == 0) continue;
        load_block<T>(p, s, t.kv_head, keys, block);
        tile_gradients(p, t, rows, keys, block, c, false, scratch);
        add_over_keys(p, t, keys, block, c, scratch, grad_q.get());
      }
      write_rows<T>(b.grad_q, t, p.head_dim, grad_q.get());
    }
  });
}

// The items a task walks along one dimension of the dense mask: its own, or all where the mask broadcasts.
struct Span {
  int64_t first, last;
};
Span span_of(int64_t stride, int64_t index, int64_t count) {
  return stride != 0 ? Span{index, index + 1} : Span{0, count};
}

// Adds one tile's score gradients against one block.
void add_to_mask(const Backward& b, const Tile& t, const Block& keys, const Columns& c,
                 const Scratch& scratch) {
  const MaskStrides& strides = b.grad_mask_strides;
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    double* to = b.grad_mask + mask_row(strides, t.s, head, query);
    for (int64_t i = c.first; i < smaller(c.last, keys.keys); ++i) {
      to[(keys.first + i) * strides.key] += scratch.grads[static_cast<size_t>(row * kBlock + i)];
    }
  });
}

// The dense mask's gradient, in a pass of its own: only biases that are trained need it, and only here do
// sums run over batch and heads. Tasks are the places where the mask does not broadcast.
template <class T>
void mask_gradients(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  const MaskStrides& strides = b.grad_mask_strides;
  int64_t blocks = 0;
  for (int64_t i = 0; i < p.sequences; ++i) {
    const int64_t count = ceil_div(p.sequence[i].kv_len, kBlock);
    blocks = count > blocks ? count : blocks;
  }
  const int64_t tiles = tile_count(p, p.sequence[0]);  // a dense mask goes with one q_len
  const int64_t by_block = strides.key ? blocks : 1, by_tile = strides.query ? tiles : 1;
  const int64_t by_head = strides.head ? p.kv_heads : 1, by_batch = strides.batch ? p.sequences : 1;
  parallel_for(0, by_batch * by_head * by_tile * by_block, 1, [&](int64_t begin, int64_t end) {
    Rows rows(p, largest_tile(p));
    KeyBlock block(p);
    Scratch scratch(largest_tile(p));
    for (int64_t i = begin; i < end; ++i) {
      const Span in_blocks = span_of(strides.key, i % by_block, blocks);
      const Span in_tiles = span_of(strides.query, i / by_block % by_tile, tiles);
      const Span in_heads = span_of(strides.head, i / by_block / by_tile % by_head, p.kv_heads);
      const Span in_batch = span_of(strides.batch, i / by_block / by_tile / by_head, p.sequences);
      for (int64_t n = in_batch.first; n < in_batch.last; ++n) {
        for (int64_t head = in_heads.first; head < in_heads.last; ++head) {
          for (int64_t tile = in_tiles.first; tile < in_tiles.last; ++tile) {
            const Tile t = make_tile(p, p.sequence[n], head, tile);
            load_tile<T>(b, delta, t, rows);
            for (int64_t index = in_blocks.first; index < in_blocks.last; ++index) {
              const Block keys = make_block(t.s, index);
              const Columns c = keys.keys > 0 ? visible_columns(p, t, keys) : Columns{0, 0};
              if (c.last == 0) continue;
              load_block<T>(p, t.s, head, keys, block);
              tile_gradients(p, t, rows, keys, block, c, true, scratch);
              add_to_mask(b, t, keys, c, scratch);
            }
          }
        }
      }
    }
  });
}

template <class T>
void backward_as(const Backward& b) {
  const Problem& p = b.problem;
  const auto delta = make_aligned<float>(lse_size(p));
  row_deltas<T>(b, delta.get());
  if (b.grad_sink) sink_gradients(b, delta.get());
  if (b.grad_mask) mask_gradients<T>(b, delta.get());
  if (p.sequences * p.kv_heads >= kEnoughHeads) {
    run_heads<T>(b, delta.get());
  } else {
    run_key_blocks<T>(b, delta.get());
    run_query_tiles<T>(b, delta.get());
  }
}

void run_backward(const Backward& b) {
  if (b.problem.dtype == DType::f32) backward_as<float>(b);
  if (b.problem.dtype == DType::bf16) backward_as<bfloat16>(b);
  if (b.problem.dtype == DType::f16) backward_as<float16>(b);
}

}  // namespace

extern const BackwardKernels PYLLM_LEVEL_TABLE(backward_kernels);
const BackwardKernels PYLLM_LEVEL_TABLE(backward_kernels) = {run_backward};

}  // namespace pyllm::attention
