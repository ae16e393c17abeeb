// One tile of rows against one block of keys in the backward pass:
//
//   S  = Q K^T, dP = grad_out V^T      panel by panel of 32 keys, each past the strips of 12 rows that see it
//   P  = 2^(S - lse), dS = P (dP - delta)                                              row by row, in place
//   grad_v += P^T grad_out, grad_k += dS^T Q          strip by strip of 12 keys, over the rows that see them
//   grad_q += dS K                                                    strip by strip of 12 rows, likewise
//
// At head size 64, 96 rows and 256 keys: P and dS 104 KB each, packed keys and values 192 KB, sums over rows
// 128 KB, the tile's rows and their sums 72 KB: all in a second-level cache of 1 MB. A panel of 32 keys takes
// 8 KB, the strips that pass it 3 KB each: the first-level cache sees 4 bytes a cycle.
#pragma once

#include <vector>

#include "core/scratch.h"
#include "ops/attention/backward_products.h"
#include "ops/attention/row_gradients.h"

namespace pyllm::attention {
namespace {

// Whole vectors that hold `dim` floats: the row stride of everything below, zero behind `dim`.
constexpr int64_t vector_width(int64_t dim) { return ceil_div(dim, kLanes) * kLanes; }

// A tile's rows as floats. Rows that saw no key are zeros.
struct Rows {
  float *q, *grad_out;
  float* lse;  // base 2; +infinity for the rows above, which makes their weights zero
  float* delta;
};

[[maybe_unused]] inline int64_t rows_size(const Problem& p, int64_t rows) {
  return rows * (vector_width(p.head_dim) + vector_width(p.value_dim) + 2);
}

[[maybe_unused]] inline Rows rows_at(const Problem& p, int64_t rows, float* memory) {
  float* grad_out = memory + rows * vector_width(p.head_dim);
  float* lse = grad_out + rows * vector_width(p.value_dim);
  return {memory, grad_out, lse, lse + rows};
}

// A row as floats; where it holds a NaN or an infinity, false and zeros. Sums over rows or keys meet zero
// weights where a mask hides the key, so such a row must not take part in them.
template <class T>
[[maybe_unused]] bool load_finite(const T* from, int64_t dim, float* to) {
  to_float(from, to, dim);
  zero_fill(to + dim, vector_width(dim) - dim);
  if (all_finite(to, dim)) return true;
  zero_fill(to, dim);
  return false;
}

// A row that is not finite reaches what it sees by an lse of NaN.
template <class T>
[[maybe_unused]] void load_rows(const Backward& b, const float* delta, const Tile& t, const Rows& to) {
  const Problem& p = b.problem;
  const int64_t depth = vector_width(p.head_dim), width = vector_width(p.value_dim);
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    const int64_t index = row_index(p, t.s, head, query);
    const float lse = static_cast<const float*>(b.lse)[index];
    if (lse == -kInfinity) {
      zero_fill(to.q + row * depth, depth);
      zero_fill(to.grad_out + row * width, width);
      to.lse[row] = kInfinity;
      to.delta[row] = 0.0f;
      return;
    }
    const bool finite_q =
        load_finite(query_row<const T>(p.q, t.s, head, query), p.head_dim, to.q + row * depth);
    const bool finite =
        load_finite(query_row<const T>(b.grad_out, t.s, head, query), p.value_dim, to.grad_out + row * width);
    to.lse[row] = finite && finite_q ? lse * kLog2E : std::numeric_limits<float>::quiet_NaN();
    to.delta[row] = delta[index];
  });
}

// A block of keys and values, packed, and the sums of their gradients.
struct KeyBlock {
  explicit KeyBlock(const Problem& p)
      : depth(vector_width(p.head_dim)),
        width(vector_width(p.value_dim)),
        memory(packed_size(p.head_dim, kBlock) + packed_size(p.value_dim, kBlock) +
               kBlock * (2 * depth + width)),
        keys_transposed(memory.get()),
        values_transposed(keys_transposed + packed_size(p.head_dim, kBlock)),
        keys(values_transposed + packed_size(p.value_dim, kBlock)),
        grad_k(keys + kBlock * depth),
        grad_v(grad_k + kBlock * depth) {}

  int64_t depth, width;
  Scratch memory;
  float *keys_transposed, *values_transposed;  // panels
  float *keys, *grad_k, *grad_v;               // rows
};

// A key that is not finite shows in the scores of the rows that see it.
template <class T>
[[maybe_unused]] void load_block(const Problem& p, const Sequence& s, int64_t kv_head, const Block& b,
                                 const KeyBlock& to) {
  pack_transposed<T>(p.k, s, kv_head, b, p.head_dim, to.keys_transposed);
  pack_transposed<T>(p.v, s, kv_head, b, p.value_dim, to.values_transposed);
  for (int64_t key = 0; key < b.keys; ++key) {
    load_finite(key_row<const T>(p.k, s, kv_head, b.first + key), p.head_dim, to.keys + key * to.depth);
  }
  zero_fill(to.grad_k, b.keys * to.depth);
  zero_fill(to.grad_v, b.keys * to.width);
}

// Rows [first, last) of a tile.
struct RowRange {
  int64_t first, last;
};

// What a tile sees of a block, and the scores between them.
struct TileSpace {
  explicit TileSpace(int64_t rows)
      : memory(2 * rows * kScoreStride), weights(memory.get()), grads(weights + rows * kScoreStride) {}

  Scratch memory;
  float *weights, *grads;       // rows x kScoreStride
  Columns columns;              // of the tile
  std::vector<Columns> strips;  // of kRows rows each
  std::vector<RowRange> keys;   // per kRows keys from columns.first on: the rows that see any of them
};

// True if a boolean mask shows the row any of the keys.
[[maybe_unused]] inline bool mask_shows(const DenseMask& mask, int64_t offset, int64_t keys) {
  const uint8_t* attend = static_cast<const uint8_t*>(mask.data) + offset;
  unsigned any = 0;
  if (mask.strides.key == 1) {  // vectorized
    for (int64_t i = 0; i < keys; ++i) any |= attend[i];
  } else {
    for (int64_t i = 0; i < keys; ++i) any |= attend[i * mask.strides.key];
  }
  return any != 0;
}

// The columns that a strip of rows sees; none where a boolean mask hides them all.
[[maybe_unused]] inline Columns strip_view(const Problem& p, const Tile& t, int64_t first_row, int64_t rows,
                                           const Block& b) {
  const int64_t first = first_row / t.group, last = (first_row + rows - 1) / t.group;
  const Columns c = visible_columns(p, {t.s, t.kv_head, t.group, t.first + first, last - first + 1}, b);
  if (!p.mask.data || !p.mask.boolean || c.last == 0) return c;
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    const int64_t head = t.kv_head * t.group + row % t.group, query = t.first + row / t.group;
    const int64_t offset =
        mask_row(p.mask.strides, t.s, head, query) + (b.first + c.first) * p.mask.strides.key;
    if (mask_shows(p.mask, offset, smaller(c.last, b.keys) - c.first)) return c;
  }
  return {0, 0};
}

// Returns false where the tile sees nothing of the block.
[[maybe_unused]] inline bool view_tile(const Problem& p, const Tile& t, const Block& b, TileSpace& to) {
  if (visible_columns(p, t, b).last == 0) return false;
  to.strips.clear();
  to.columns = {kBlock, 0};
  for (int64_t row = 0; row < row_count(t); row += kRows) {
    const Columns c = strip_view(p, t, row, smaller(kRows, row_count(t) - row), b);
    to.strips.push_back(c);
    if (c.last == 0) continue;
    to.columns = {smaller(to.columns.first, c.first), c.last > to.columns.last ? c.last : to.columns.last};
  }
  if (to.columns.last == 0) return false;
  to.keys.clear();
  for (int64_t key = to.columns.first; key < to.columns.last; key += kRows) {
    RowRange range = {0, 0};
    for (int64_t i = 0; i < static_cast<int64_t>(to.strips.size()); ++i) {
      const Columns& c = to.strips[static_cast<size_t>(i)];
      if (key + kRows <= c.first || key >= c.last) continue;
      if (range.last == 0) range.first = i * kRows;
      range.last = smaller((i + 1) * kRows, row_count(t));
    }
    to.keys.push_back(range);
  }
  return true;
}

// Calls f(first row, rows, columns) for the strips that see any of the block.
template <class F>
[[maybe_unused]] inline void for_each_strip(const Tile& t, const TileSpace& space, const F& f) {
  for (int64_t i = 0; i < static_cast<int64_t>(space.strips.size()); ++i) {
    const Columns& c = space.strips[static_cast<size_t>(i)];
    if (c.last > 0) f(i * kRows, smaller(kRows, row_count(t) - i * kRows), c);
  }
}

// to = rows . panels for what each strip sees.
[[maybe_unused]] inline void dot_rows(const Tile& t, const TileSpace& space, const float* rows,
                                      const float* panels, int64_t dim, float* to) {
  const int64_t stride = vector_width(dim);
  for (int64_t panel = space.columns.first; panel < space.columns.last; panel += kPanel) {
    for_each_strip(t, space, [&](int64_t row, int64_t count, const Columns& c) {
      if (panel < c.first || panel >= c.last) return;
      product_strip(RowMajor{rows + row * stride, stride}, count, {panels, kPanel, dim * kPanel}, panel,
                    kBlock, 0, dim, false, to + row * kScoreStride, kScoreStride);
    });
  }
}

// Weights and gradients of the tile that `space` views.
template <class T>
[[maybe_unused]] void tile_gradients(const Problem& p, const Tile& t, const Rows& rows, const Block& b,
                                     const KeyBlock& block, bool of_scores, const TileSpace& space) {
  dot_rows(t, space, rows.q, block.keys_transposed, p.head_dim, space.weights);
  dot_rows(t, space, rows.grad_out, block.values_transposed, p.value_dim, space.grads);
  const Columns& all = space.columns;
  const bool plain = has_plain_scores(p);
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    const Columns seen = space.strips[static_cast<size_t>(row / kRows)];
    const Columns c = seen.last > 0 ? seen : Columns{all.first, all.first};
    const RowSpan span{t.s, head, query, b.first + c.first, c.last - c.first};
    float *x = space.weights + row * kScoreStride, *grad = space.grads + row * kScoreStride;
    if (plain) {
      plain_row_gradients<T>(p, span, rows.lse[row], rows.delta[row], x + c.first, grad + c.first);
    } else {
      row_gradients<T>(p, span, rows.lse[row], rows.delta[row], of_scores, x + c.first, grad + c.first);
    }
    for (float* line : {x, grad}) {
      zero_fill(line + all.first, c.first - all.first);
      zero_fill(line + c.last, all.last - c.last);
    }
  });
}

// sums (keys x width) += x^T rows
[[maybe_unused]] inline void add_over_rows(const TileSpace& space, const Block& b, const float* x,
                                           const float* rows, int64_t width, float* sums) {
  const int64_t end = smaller(space.columns.last, b.keys);
  for (int64_t d = 0; d < width; d += kPanel) {
    const RowRange* seen = space.keys.data();
    for (int64_t key = space.columns.first; key < end; key += kRows, ++seen) {
      product_strip(InColumns{x + key, kScoreStride}, smaller(kRows, end - key), {rows, width, kPanel}, d,
                    width, seen->first, seen->last, true, sums + key * width, width);
    }
  }
}

// grad_q (rows x depth) += grads . keys
[[maybe_unused]] inline void add_over_keys(const Tile& t, const TileSpace& space, const Block& b,
                                           const KeyBlock& block, float* grad_q) {
  for (int64_t d = 0; d < block.depth; d += kPanel) {
    for_each_strip(t, space, [&](int64_t row, int64_t count, const Columns& c) {
      product_strip(RowMajor{space.grads + row * kScoreStride, kScoreStride}, count,
                    {block.keys, block.depth, kPanel}, d, block.depth, c.first, smaller(c.last, b.keys), true,
                    grad_q + row * block.depth, block.depth);
    });
  }
}

}  // namespace
}  // namespace pyllm::attention
