// The dense mask's gradient, in a pass of its own: only biases that are trained need it, and only here do
// sums run over batch and heads.
#pragma once

#include "core/parallel.h"
#include "ops/attention/backward_tile.h"

namespace pyllm::attention {
namespace {

// The items a task walks along one dimension of the dense mask: its own, or all where the mask broadcasts.
struct Span {
  int64_t first, last;
};
[[maybe_unused]] inline Span span_of(int64_t stride, int64_t index, int64_t count) {
  return stride != 0 ? Span{index, index + 1} : Span{0, count};
}

// Adds one tile's score gradients against one block.
[[maybe_unused]] inline void add_to_mask(const Backward& b, const Tile& t, const Block& keys,
                                         const TileSpace& space) {
  const MaskStrides& strides = b.grad_mask_strides;
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    double* to = b.grad_mask + mask_row(strides, t.s, head, query) + keys.first * strides.key;
    const float* grads = space.grads + row * kScoreStride;
    for (int64_t i = space.columns.first; i < smaller(space.columns.last, keys.keys); ++i) {
      to[i * strides.key] += static_cast<double>(grads[i]);
    }
  });
}

// Tasks are the places where the mask does not broadcast.
template <class T>
[[maybe_unused]] void mask_gradients(const Backward& b, const float* delta) {
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
    const int64_t largest = largest_tile(p);
    const Scratch memory(rows_size(p, largest));
    const Rows rows = rows_at(p, largest, memory.get());
    const KeyBlock block(p);
    TileSpace space(largest);
    for (int64_t i = begin; i < end; ++i) {
      const Span in_blocks = span_of(strides.key, i % by_block, blocks);
      const Span in_tiles = span_of(strides.query, i / by_block % by_tile, tiles);
      const Span in_heads = span_of(strides.head, i / by_block / by_tile % by_head, p.kv_heads);
      const Span in_batch = span_of(strides.batch, i / by_block / by_tile / by_head, p.sequences);
      for (int64_t n = in_batch.first; n < in_batch.last; ++n) {
        for (int64_t head = in_heads.first; head < in_heads.last; ++head) {
          for (int64_t tile = in_tiles.first; tile < in_tiles.last; ++tile) {
            const Tile t = make_tile(p, p.sequence[n], head, tile);
            load_rows<T>(b, delta, t, rows);
            for (int64_t index = in_blocks.first; index < in_blocks.last; ++index) {
              const Block keys = make_block(t.s, index);
              if (keys.keys <= 0 || !view_tile(p, t, keys, space)) continue;
              load_block<T>(p, t.s, head, keys, block);
              tile_gradients<T>(p, t, rows, keys, block, true, space);
              add_to_mask(b, t, keys, space);
            }
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace pyllm::attention
