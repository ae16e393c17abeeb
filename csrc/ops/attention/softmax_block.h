// One strip of rows against one block of keys: scores, weights, weighted values, merged into the rows' sums.
// Everything between the block and the sums stays in the first-level cache:
//
//   scores    12 rows x 256 keys x 4 B = 12 KB      written once, exponentiated in place
//   values    12 rows x value_dim      =  3 KB      at 64
#pragma once

#include "ops/attention/row_products.h"
#include "ops/attention/sums.h"

namespace pyllm::attention {
namespace {

// The largest score times a positive factor, rounded up. A row of NaN and masked scores gives 0: its weights
// must be NaN, not masked.
[[maybe_unused]] inline float row_maximum(const float* x, int64_t count, float factor = 1.0f) {
  Vec largest[2] = {set1(-kInfinity), set1(-kInfinity)}, nan = zero();
  for (int64_t i = 0; i < count; i += 2 * kLanes) {  // whole panels
    largest[0] = max(largest[0], load(x + i));
    largest[1] = max(largest[1], load(x + i + kLanes));
  }
  const float maximum = reduce_max(max(largest[0], largest[1]));
  if (maximum > -kInfinity) return __builtin_ceilf(maximum * factor);
  for (int64_t i = 0; i < count; i += kLanes) nan = nan + select(is_nan(load(x + i)), set1(1.0f), zero());
  return reduce_add(nan) > 0.0f ? 0.0f : -kInfinity;
}

// Scores become weights; returns their sum. With Mark, masked weights are written as kMaskedWeight.
template <class T, bool Mark>
[[maybe_unused]] float exponentiate(float* x, int64_t count, float maximum) {
  Vec sum = zero();
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec score = load(x + i);
    const Vec weight = softmax_exp2<T>(score - set1(maximum));
    sum = sum + weight;
    store(x + i, Mark ? select(less(score, set1(-kLargest)), set1(kMaskedWeight), weight) : weight);
  }
  return reduce_add(sum);
}

[[maybe_unused]] inline void drop(const Problem& p, const RowSpan& span, float* weights) {
  alignas(64) float factor[kBlock];
  dropout_factors(p, span, factor);
  for (int64_t i = 0; i < span.count; i += kLanes) store(weights + i, load(weights + i) * load(factor + i));
}

template <class T>
[[maybe_unused]] void weights_of_row(const Problem& p, const RowSpan& span, bool mark, float* x,
                                     float* maximum, float* sum) {
  adjust_scores(p, span, x);
  *maximum = row_maximum(x, span.count);
  if (*maximum == -kInfinity) {
    *sum = 0.0f;
    for (int64_t i = 0; i < span.count; ++i) x[i] = kMaskedWeight;
    return;
  }
  *sum =
      mark ? exponentiate<T, true>(x, span.count, *maximum) : exponentiate<T, false>(x, span.count, *maximum);
  if (p.dropout_p > 0) drop(p, span, x);
}

// What rows [first_row, first_row + rows) of a tile see of a block.
[[maybe_unused]] inline Columns strip_columns(const Problem& p, const Tile& t, int64_t first_row,
                                              int64_t rows, const Block& b) {
  const int64_t first = first_row / t.group, last = (first_row + rows - 1) / t.group;
  return visible_columns(p, {t.s, t.kv_head, t.group, t.first + first, last - first + 1}, b);
}

// The scratch of a strip.
struct StripSpace {
  float* scores;  // kRows x kScoreStride
  float* sums;    // sums_size(p, kRows)
};

// Joins block b's keys in columns c to the sums of rows [first_row, first_row + rows) of a tile. `queries`
// holds the strip as block_products.h wants it; T is the tensors' type, View the form the block has.
//
// Products run over masked keys too, with weight zero. Where that meets a NaN or an infinity the sums show
// it, and are made again without those terms.
template <class T, class View>
[[maybe_unused]] void attend_strip(const Problem& p, const Tile& t, int64_t first_row, int64_t rows,
                                   const float* queries, const Block& b, const View& view, const Columns& c,
                                   const StripSpace& space, const Sums& into) {
  const Sums partial = sums_at(p, space.sums, kRows);
  const int64_t last = smaller(c.last, b.keys);
  const auto weights = [&](bool mark) {
    block_scores(queries, rows, p.head_dim, score_factor(p), view, c, space.scores);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = first_row + r;
      const RowSpan span{t.s, t.kv_head * t.group + row % t.group, t.first + row / t.group, b.first + c.first,
                         c.last - c.first};
      weights_of_row<T>(p, span, mark, space.scores + r * kScoreStride + c.first, partial.maximum + r,
                        partial.sum + r);
    }
  };
  weights(false);
  block_sums(space.scores, rows, view, c, last, partial.out);
  if (!all_finite(partial.out, rows * partial.width)) {
    weights(true);
    block_sums_unmasked(space.scores, rows, view, c, last, partial.out);
  }
  merge(partial, into.from(first_row), rows);
}

}  // namespace
}  // namespace pyllm::attention
