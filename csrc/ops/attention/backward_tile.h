// What the backward passes share: a tile of rows, a block of keys, and the products between them.
#pragma once

#include "core/aligned.h"
#include "ops/attention/scores.h"
#include "ops/attention/tile.h"

namespace pyllm::attention {
namespace {

// C (m x n, row stride n) += A^T B, with A (k x m, row stride lda) and B packed. `strips` holds A's columns
// in the order the register tiles read them.
[[maybe_unused]] inline void gemm_transposed(const float* a, int64_t lda, const float* packed, float* c,
                                             int64_t m, int64_t n, int64_t k, float* strips) {
  pack_panels<kRows>(a, lda, 1, k, m, strips);
  for (int64_t row = 0; row < m; row += kRows) {
    for (int64_t column = 0; column < n; column += kPanel) {
      gemm_tiles<kRows>(Strip{strips + row * k}, packed + column * k, c + row * n + column, n,
                        smaller(kRows, m - row), k, smaller(kPanel, n - column), true);
    }
  }
}

// A tile's rows: in place, and packed as right-hand sides of the sums over rows.
struct Rows {
  Rows(const Problem& p, int64_t count)
      : q(make_aligned<float>(count * p.head_dim)),
        grad_out(make_aligned<float>(count * p.value_dim)),
        packed_q(make_aligned<float>(packed_size(count, p.head_dim))),
        packed_grad_out(make_aligned<float>(packed_size(count, p.value_dim))),
        lse(make_aligned<float>(count)),
        delta(make_aligned<float>(count)) {}

  AlignedArray<float> q, grad_out, packed_q, packed_grad_out;
  AlignedArray<float> lse;  // base 2; +infinity for rows without keys, which makes their weights zero
  AlignedArray<float> delta;
  bool finite = true;
};

struct KeyBlock {
  explicit KeyBlock(const Problem& p)
      : keys_transposed(make_aligned<float>(packed_size(p.head_dim, kBlock))),
        values_transposed(make_aligned<float>(packed_size(p.value_dim, kBlock))),
        keys(make_aligned<float>(packed_size(kBlock, p.head_dim))) {}

  AlignedArray<float> keys_transposed, values_transposed, keys;
  bool finite = true;
};

struct Scratch {
  explicit Scratch(int64_t rows)
      : weights(make_aligned<float>(rows * kBlock)),
        grads(make_aligned<float>(rows * kBlock)),
        strips(make_aligned<float>(ceil_div(kBlock, kRows) * kRows * rows)) {}

  AlignedArray<float> weights, grads, strips;
};

[[maybe_unused]] inline void zero_fill(float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = 0.0f;
}

// Rows that saw no key take part as zeros, whatever they hold.
template <class T>
[[maybe_unused]] void load_tile(const Backward& b, const float* delta, const Tile& t, Rows& to) {
  const Problem& p = b.problem;
  const int64_t count = row_count(t);
  load_rows<T>(p.q, t, p.head_dim, to.q.get());
  load_rows<T>(b.grad_out, t, p.value_dim, to.grad_out.get());
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    const int64_t index = row_index(p, t.s, head, query);
    const float lse = static_cast<const float*>(b.lse)[index];
    const bool seen = lse != -kInfinity;
    to.lse[static_cast<size_t>(row)] = seen ? lse * kLog2E : kInfinity;
    to.delta[static_cast<size_t>(row)] = seen ? delta[index] : 0.0f;
    if (seen) return;
    zero_fill(to.q.get() + row * p.head_dim, p.head_dim);
    zero_fill(to.grad_out.get() + row * p.value_dim, p.value_dim);
  });
  to.finite =
      all_finite(to.q.get(), count * p.head_dim) && all_finite(to.grad_out.get(), count * p.value_dim);
  pack_panels(to.q.get(), p.head_dim, 1, count, p.head_dim, to.packed_q.get());
  pack_panels(to.grad_out.get(), p.value_dim, 1, count, p.value_dim, to.packed_grad_out.get());
}

template <class T>
[[maybe_unused]] void load_block(const Problem& p, const Sequence& s, int64_t kv_head, const Block& b,
                                 KeyBlock& to) {
  pack_transposed<T>(p.k, s, kv_head, b, p.head_dim, to.keys_transposed.get());
  pack_transposed<T>(p.v, s, kv_head, b, p.value_dim, to.values_transposed.get());
  pack_keys<T>(p.k, s, kv_head, b, p.head_dim, to.keys.get());
  to.finite = all_finite(to.keys.get(), packed_size(b.keys, p.head_dim));
}

// slope[i] = d score / d dot product
[[maybe_unused]] inline void score_slopes(const Problem& p, const float* dots, int64_t count, float* slope) {
  const Vec scale = set1(static_cast<float>(p.scale));
  const Vec inner = set1(p.softcap > 0 ? static_cast<float>(p.scale / p.softcap) : 0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec t = p.softcap > 0 ? tanh(load(dots + i) * inner) : zero();
    store(slope + i, scale - scale * t * t);
  }
}

// One row: `x` holds dot products and becomes dropout(weights), `grad` holds grad_out . v and becomes the
// gradient of the dot products, or of the scores.
[[maybe_unused]] inline void row_gradients(const Problem& p, const RowSpan& span, float lse, float delta,
                                           bool of_scores, float* x, float* grad) {
  alignas(64) float slope[kBlock], factor[kBlock];
  if (!of_scores) score_slopes(p, x, span.count, slope);
  if (p.dropout_p > 0) dropout_factors(p, span, factor);
  score_row(p, span, x);
  for (int64_t i = 0; i < span.count; i += kLanes) {
    const Vec score = load(x + i), weight = exp2(score - set1(lse));
    const Vec kept = p.dropout_p > 0 ? load(factor + i) : set1(1.0f);
    const Vec outer = of_scores ? set1(1.0f) : load(slope + i);
    const Vec grad_score = weight * (load(grad + i) * kept - set1(delta)) * outer;
    const auto masked = less(score, set1(-kLargest));
    store(x + i, select(masked, set1(kMaskedWeight), weight * kept));
    store(grad + i, select(masked, zero(), grad_score));
  }
}

// Weights and gradients of one tile against one block, in the scratch.
[[maybe_unused]] inline void tile_gradients(const Problem& p, const Tile& t, const Rows& rows, const Block& b,
                                            const KeyBlock& block, const Columns& c, bool of_scores,
                                            Scratch& to) {
  const int64_t count = row_count(t);
  dot_products(rows.q.get(), count, block.keys_transposed.get(), p.head_dim, c, to.weights.get());
  dot_products(rows.grad_out.get(), count, block.values_transposed.get(), p.value_dim, c, to.grads.get());
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    const RowSpan span{t.s, head, query, b.first + c.first, c.last - c.first};
    const int64_t at = row * kBlock + c.first;
    row_gradients(p, span, rows.lse[static_cast<size_t>(row)], rows.delta[static_cast<size_t>(row)],
                  of_scores, to.weights.get() + at, to.grads.get() + at);
  });
}

// sums (keys x dim) += x^T source, for the block's columns.
[[maybe_unused]] inline void add_over_rows(const float* x, const Rows& rows, const Tile& t, const Block& b,
                                           const Columns& c, const float* source, int64_t dim, float* sums,
                                           Scratch& scratch) {
  const int64_t keys = smaller(c.last, b.keys) - c.first, count = row_count(t);
  if (rows.finite) {
    gemm_transposed(x + c.first, kBlock, source, sums + c.first * dim, keys, dim, count,
                    scratch.strips.get());
  } else {
    sum_unmasked(x + c.first, scratch.weights.get() + c.first, 1, kBlock, keys, count, source, count, dim,
                 sums + c.first * dim, true);
  }
}

// grad_q (rows x dim) += grads . keys
[[maybe_unused]] inline void add_over_keys(const Problem& p, const Tile& t, const Block& b,
                                           const KeyBlock& block, const Columns& c, const Scratch& scratch,
                                           float* grad_q) {
  const int64_t depth = smaller(c.last, b.keys) - c.first;
  const float *x = scratch.grads.get() + c.first, *weight = scratch.weights.get() + c.first;
  if (block.finite) {
    gemm_part(x, kBlock, block.keys.get(), b.keys, c.first, depth, grad_q, p.head_dim, row_count(t),
              p.head_dim, true);
  } else {
    sum_unmasked(x, weight, kBlock, 1, row_count(t), depth, block.keys.get() + c.first * kPanel, b.keys,
                 p.head_dim, grad_q, true);
  }
}

}  // namespace
}  // namespace pyllm::attention
