// The backward pass of one strip of 64 rows against one block of 128 keys, on tiles.
//
//   for each 32 keys the strip can see:
//     S^T  = K . Q^T                  32 keys x 64 rows, K as it lies, Q in columns
//     dP^T = V . grad_out^T
//     P^T  = 2^(S^T - lse)            lanes are rows: lse and delta are vectors, nothing is reduced
//     dS^T = P^T (dP^T - delta)       both rounded to bf16; dS^T also in pairs of keys
//   grad_v   += P^T  . grad_out       keys x dims, 64 rows deep
//   grad_k   += dS^T . Q
//   grad_q^T += K^T  . dS             dims x rows, 128 keys deep; K^T packed once a block
//
// At head size 64 these are 320 tile products, 5120 cycles. S^T and dP^T of 32 keys take 16 KB, P^T and the
// two forms of dS^T 16 KB each, which stay between the first- and the second-level cache; sums of keys are
// loaded and stored once in two products, those of rows once in four. The vector part costs about 14
// instructions for 16 weights: 3600 cycles on two ports, part of them beside the next tiles'.
#pragma once

#include "core/exp2.h"
#include "ops/attention/amx_backward_rows.h"
#include "ops/attention/amx_products.h"
#include "ops/attention/row_gradients.h"
#include "ops/attention/tile.h"

namespace pyllm::attention {
namespace {

constexpr int64_t kGradKeys = 128;  // of a block
constexpr int64_t kSlice = 32;      // keys whose scores are made at once

// Masks that need a row of scores at a time (scores.h) instead of an interval: slower by the transposes.
[[maybe_unused]] inline bool needs_rows(const Problem& p) {
  return p.mask.data || p.alibi_slopes || p.softcap > 0 || p.dropout_p > 0;
}

// The gradients of the dot products are left without the scale until they are written.
[[maybe_unused]] inline float gradient_factor(const Problem& p) { return static_cast<float>(p.scale); }

// A block of keys and the sums of its gradients, 128 rows each; missing keys are zeros.
struct GradBlock {
  explicit GradBlock(const Problem& p)
      : depth(padded(p.head_dim)),
        width(padded(p.value_dim)),
        keys(make_aligned<bfloat16>(kGradKeys * depth)),
        values(make_aligned<bfloat16>(kGradKeys * width)),
        pairs(make_aligned<bfloat16>(kGradKeys * depth)),
        keys_transposed(make_aligned<bfloat16>(kGradKeys * depth)),
        grad_k(make_aligned<float>(kGradKeys * depth)),
        grad_v(make_aligned<float>(kGradKeys * width)) {}

  int64_t depth, width, first = 0, count = 0;
  AlignedArray<bfloat16> keys, values, pairs, keys_transposed;
  AlignedArray<float> grad_k, grad_v;
};

[[maybe_unused]] inline void load_block(const Problem& p, const Pair& pair, int64_t index, GradBlock& to) {
  to.first = index * kGradKeys;
  to.count = smaller(kGradKeys, pair.s.kv_len - to.first);
  const auto key = [&](int64_t i) {
    return key_row<const bfloat16>(p.k, pair.s, pair.kv_head, to.first + i);
  };
  const auto value = [&](int64_t i) {
    return key_row<const bfloat16>(p.v, pair.s, pair.kv_head, to.first + i);
  };
  const RowsOf keys{key, to.count, p.head_dim};
  const RowsOf values{value, to.count, p.value_dim};
  copy_rows(keys, kGradKeys, to.depth, to.keys.get());
  copy_rows(values, kGradKeys, to.width, to.values.get());
  // A key that is not finite shows in the scores of the rows that see it.
  pack_pairs(keys, kGradKeys, to.depth, true, to.pairs.get());
  transpose_pairs(to.pairs.get(), kGradKeys, to.depth, to.keys_transposed.get());
  zero_fill(to.grad_k.get(), kGradKeys * to.depth);
  zero_fill(to.grad_v.get(), kGradKeys * to.width);
}

[[maybe_unused]] inline void write_keys(const Heads& to, const Pair& pair, const GradBlock& block,
                                        const float* sums, int64_t dim, float factor) {
  for (int64_t key = 0; key < block.count; ++key) {
    bfloat16* row = key_row<bfloat16>(to, pair.s, pair.kv_head, block.first + key);
    for_each_vec(dim, [&](int64_t d, int64_t lanes) {
      store_lanes(row + d, load_lanes(sums + key * padded(dim) + d, lanes) * set1(factor), lanes);
    });
  }
}

// What the rows of a strip see of a block: the keys that any sees, counted from the block's first in whole
// slices, those that all see, and each row's own bounds.
struct StripView {
  int64_t first, last;
  Visible all;
  alignas(64) int32_t head[kGradRows], low[kGradRows], high[kGradRows];

  bool covers_slice(int64_t slice) const { return covers(all, slice, slice + kSlice); }
};

[[maybe_unused]] inline bool view_strip(const Problem& p, const Pair& pair, const RowStrip& strip,
                                        const GradBlock& block, StripView& to) {
  const Visible top = visible(p, pair.s, pair.query(strip.first));
  const Visible bottom = visible(p, pair.s, pair.query(strip.first + strip.rows - 1));
  const KeyRange range =
      visible_range({bottom.head, top.low, bottom.high}, block.first, block.first + block.count);
  if (range.first == range.last) return false;
  to.first = (range.first - block.first) / kSlice * kSlice;
  to.last = ceil_div(range.last - block.first, kSlice) * kSlice;
  to.all = {top.head - block.first, bottom.low - block.first, top.high - block.first};
  bool full = true;
  for (int64_t slice = to.first; slice < to.last; slice += kSlice) full = full && to.covers_slice(slice);
  if (full) return true;
  const auto bound = [&](int64_t x) { return static_cast<int32_t>(clamp(x - block.first, 0, kGradKeys)); };
  for (int64_t i = 0; i < kGradRows; ++i) {
    const bool row = i < strip.rows;
    const Visible v = row ? visible(p, pair.s, pair.query(strip.first + i)) : Visible{0, 0, 0};
    to.head[i] = row ? bound(v.head) : 0;
    to.low[i] = row ? bound(v.low) : 0;
    to.high[i] = row ? bound(v.high) : 0;
  }
  return true;
}

struct GradScratch {
  alignas(64) float scores[kSlice * kGradRows], grads[kSlice * kGradRows];  // of a slice: keys x rows
  alignas(64) float score_rows[kGradRows * kSlice], grad_rows[kGradRows * kSlice];
  alignas(64) bfloat16 weights[kGradKeys * kGradRows], weight_grads[kGradKeys * kGradRows];
  alignas(64) bfloat16 weight_grad_pairs[kGradKeys * kGradRows];
};

// to (32 x 64) = the slice's rows . columns^T
[[maybe_unused]] inline void slice_products(const bfloat16* rows, const bfloat16* columns, int64_t depth,
                                            float* to) {
  for (int64_t column = 0; column < kGradRows; column += 2 * kAmxColumns) {
    const auto b = [&](int64_t step, int64_t c) {
      return columns + (column + c * kAmxColumns) * depth + step * kAmxElements * 2;
    };
    tile_product<2, 2>(rows, depth * 2, b, kStepBytes, 0, depth / kAmxDepth, to + column, kGradRows * 4,
                       false);
  }
}

// 32 rows of a strip: what they have in common with every key.
struct Lanes {
  Vec negative_lse[2], delta[2];
  __m512i head[2], low[2], high[2];

  Lanes(const RowStrip& strip, const StripView& view, int64_t row) {
    for (int i = 0; i < 2; ++i, row += kLanes) {
      negative_lse[i] = zero() - load(strip.lse + row);
      delta[i] = load(strip.delta + row);
      head[i] = _mm512_load_si512(view.head + row);
      low[i] = _mm512_load_si512(view.low + row);
      high[i] = _mm512_load_si512(view.high + row);
    }
  }
  Mask sees(int i, int64_t key) const {
    const __m512i k = _mm512_set1_epi32(static_cast<int>(key));
    return static_cast<Mask>(_mm512_cmplt_epi32_mask(k, head[i]) |
                             (_mm512_cmple_epi32_mask(low[i], k) & _mm512_cmplt_epi32_mask(k, high[i])));
  }
};

// Two keys of 32 rows: weight[key][half] and its gradient, rounded and stored.
[[maybe_unused]] inline void store_pair(const Vec (&weight)[2][2], const Vec (&grad)[2][2], int64_t key,
                                        int64_t row, GradScratch& to) {
  const int64_t at = key * kGradRows + row;
  _mm512_store_si512(to.weights + at, to_row(weight[0][0], weight[0][1]));
  _mm512_store_si512(to.weights + at + kGradRows, to_row(weight[1][0], weight[1][1]));
  _mm512_store_si512(to.weight_grads + at, to_row(grad[0][0], grad[0][1]));
  _mm512_store_si512(to.weight_grads + at + kGradRows, to_row(grad[1][0], grad[1][1]));
  bfloat16* pairs = to.weight_grad_pairs + key * kGradRows + row * 2;
  _mm512_store_si512(pairs, to_pair(grad[0][0], grad[1][0]));
  _mm512_store_si512(pairs + 2 * kLanes, to_pair(grad[0][1], grad[1][1]));
}

// Partial: some row does not see some key.
template <bool Partial>
[[maybe_unused]] void weigh_slice(const Problem& p, const RowStrip& strip, const StripView& view,
                                  int64_t slice, GradScratch& to) {
  const Vec scale = set1(static_cast<float>(p.scale * 1.4426950408889634));
  for (int64_t row = 0; row < kGradRows; row += 2 * kLanes) {
    const Lanes lanes(strip, view, row);
    for (int64_t key = 0; key < kSlice; key += 2) {
      Vec weight[2][2], grad[2][2];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int k = i / 2, half = i % 2;
        const int64_t at = (key + k) * kGradRows + row + half * kLanes;
        Vec w = softmax_exp2<bfloat16>(fma(load(to.scores + at), scale, lanes.negative_lse[half]));
        Vec g = w * (load(to.grads + at) - lanes.delta[half]);
        if constexpr (Partial) {
          const Mask sees = lanes.sees(half, slice + key + k);
          w = select(sees, w, zero());
          g = select(sees, g, zero());
        }
        weight[k][half] = w;
        grad[k][half] = g;
      }
      store_pair(weight, grad, slice + key, row, to);
    }
  }
}

// from (n x m, row stride n_stride) transposed
[[maybe_unused]] inline void transpose_floats(const float* from, int64_t n, int64_t m, float* to) {
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int64_t j = 0; j < m; j += kLanes) {
      Vec x[kLanes];
      for (int r = 0; r < kLanes; ++r) x[r] = load(from + (i + r) * m + j);
      transpose(x);
      for (int r = 0; r < kLanes; ++r) store(to + (j + r) * n + i, x[r]);
    }
  }
}

// The same where scores need more than an interval: through the row functions of the vector kernels.
[[maybe_unused]] inline void weigh_slice_by_rows(const Problem& p, const Pair& pair, const RowStrip& strip,
                                                 int64_t first_key, int64_t slice, GradScratch& to) {
  transpose_floats(to.scores, kSlice, kGradRows, to.score_rows);
  transpose_floats(to.grads, kSlice, kGradRows, to.grad_rows);
  for (int64_t i = 0; i < kGradRows; ++i) {
    float *x = to.score_rows + i * kSlice, *grad = to.grad_rows + i * kSlice;
    if (i < strip.rows && strip.lse[i] != kInfinity) {
      const int64_t row = strip.first + i;
      const RowSpan span{pair.s, pair.head(row), pair.query(row), first_key, kSlice};
      row_gradients<bfloat16>(p, span, strip.lse[i], strip.delta[i], false, x, grad);
    } else {
      zero_fill(x, kSlice);
      zero_fill(grad, kSlice);
    }
  }
  transpose_floats(to.score_rows, kGradRows, kSlice, to.scores);
  transpose_floats(to.grad_rows, kGradRows, kSlice, to.grads);
  for (int64_t row = 0; row < kGradRows; row += 2 * kLanes) {
    for (int64_t key = 0; key < kSlice; key += 2) {
      Vec weight[2][2], grad[2][2];
      for (int i = 0; i < 4; ++i) {
        const int64_t at = (key + i / 2) * kGradRows + row + i % 2 * kLanes;
        weight[i / 2][i % 2] = load(to.scores + at);
        grad[i / 2][i % 2] = load(to.grads + at);
      }
      store_pair(weight, grad, slice + key, row, to);
    }
  }
}

// sums (keys x dims) += x (keys x 64 rows) . pairs, for the keys of the view
[[maybe_unused]] inline void add_over_rows(const StripView& view, const RowStrip& strip, const bfloat16* x,
                                           const bfloat16* pairs, int64_t dims, float* sums) {
  for (int64_t key = view.first; key < view.last; key += 2 * kAmxRows) {
    for (int64_t d = 0; d < dims; d += 2 * kAmxColumns) {
      const auto b = [&](int64_t step, int64_t column) {
        return pairs + step * kAmxDepth * dims + (d + column * kAmxColumns) * 2;
      };
      tile_product<2, 2>(x + key * kGradRows, kGradRows * 2, b, dims * 4, 0, ceil_div(strip.rows, kAmxDepth),
                         sums + key * dims + d, dims * 4, true);
    }
  }
}

// grad_q (dims x 64 rows) += K^T (dims x keys) . dS
[[maybe_unused]] inline void add_over_keys(const StripView& view, const GradBlock& block,
                                           const GradScratch& scratch, float* grad_q) {
  for (int64_t d = 0; d < block.depth; d += 2 * kAmxRows) {
    for (int64_t row = 0; row < kGradRows; row += 2 * kAmxColumns) {
      const auto b = [&](int64_t step, int64_t column) {
        return scratch.weight_grad_pairs + step * kAmxDepth * kGradRows + (row + column * kAmxColumns) * 2;
      };
      tile_product<2, 2>(block.keys_transposed.get() + d * kGradKeys, kGradKeys * 2, b, kGradRows * 4,
                         view.first / kAmxDepth, view.last / kAmxDepth, grad_q + d * kGradRows + row,
                         kGradRows * 4, true);
    }
  }
}

[[maybe_unused]] inline void strip_backward(const Problem& p, const Pair& pair, const RowStrip& strip,
                                            GradBlock& block, GradScratch& scratch, float* grad_q) {
  StripView view;
  if (!view_strip(p, pair, strip, block, view)) return;
  for (int64_t slice = view.first; slice < view.last; slice += kSlice) {
    slice_products(block.keys.get() + slice * block.depth, strip.q_columns, block.depth, scratch.scores);
    slice_products(block.values.get() + slice * block.width, strip.grad_out_columns, block.width,
                   scratch.grads);
    if (needs_rows(p)) {
      weigh_slice_by_rows(p, pair, strip, block.first + slice, slice, scratch);
    } else if (view.covers_slice(slice)) {
      weigh_slice<false>(p, strip, view, slice, scratch);
    } else {
      weigh_slice<true>(p, strip, view, slice, scratch);
    }
  }
  add_over_rows(view, strip, scratch.weights, strip.grad_out_pairs, block.width, block.grad_v.get());
  add_over_rows(view, strip, scratch.weight_grads, strip.q_pairs, block.depth, block.grad_k.get());
  add_over_keys(view, block, scratch, grad_q);
}

}  // namespace
}  // namespace pyllm::attention
