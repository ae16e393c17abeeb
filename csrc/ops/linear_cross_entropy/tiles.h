// Tiles of logits (products.h) to statistics and to gradients.
#pragma once

#include "ops/linear_cross_entropy/products.h"

namespace pyllm::linear_cross_entropy {
namespace {

// The logits, or their gradients, of tokens [first, first + count) of the rows and a block of the vocabulary.
struct Tile {
  int64_t first, count, column, columns;
  float* l;
  int64_t stride;  // a multiple of kLanes

  float& at(int64_t t, int64_t v) const { return l[v * stride + t]; }
};

// f(its first token, its column of the tile) for each vector of tokens.
template <class F>
void for_each_lanes(const Tile& tile, const F& f) {
  for (int64_t t = 0; t < tile.count; t += kLanes) {
    f(t, Column{tile.l + t, tile.stride, tile.column, tile.columns});
  }
}

// f(token, column) for the tokens whose target lies in the block.
template <class F>
void for_each_target(const Rows& rows, const Tile& tile, const F& f) {
  for (int64_t t = 0; t < tile.count; ++t) {
    const int64_t v = rows.target[tile.first + t] - tile.column;
    if (v >= 0 && v < tile.columns) f(t, v);
  }
}

constexpr int64_t kMostTokens = 192;  // of a tile

// Per block and row: max, sum, total.
class Partials {
 public:
  Partials(int64_t rows, int64_t blocks)
      : stride_(ceil_div(rows, kLanes) * kLanes),
        blocks_(blocks),
        data_(make_aligned<float>(3 * stride_ * blocks)) {}

  void set(int64_t block, int64_t row, const Partial& partial) {
    float* to = data_.get() + 3 * block * stride_ + row;
    store(to, partial.max);
    store(to + stride_, partial.sum);
    store(to + 2 * stride_, partial.total);
  }

  // All but the target, blocks in ascending order.
  void merge(int64_t row, Statistics& s) const {
    const float* from = data_.get() + row;
    s.max = static_cast<double>(from[0]);
    for (int64_t i = 1; i < blocks_; ++i) {
      const double max = static_cast<double>(from[3 * i * stride_]);
      if (max > s.max) s.max = max;
    }
    s.sum = s.total = 0;
    for (int64_t i = 0; i < blocks_; ++i) {
      const float* partial = from + 3 * i * stride_;
      const double sum = static_cast<double>(partial[stride_]);
      s.sum += sum * __builtin_exp(static_cast<double>(partial[0]) - s.max);
      s.total += static_cast<double>(partial[2 * stride_]);
    }
  }

 private:
  int64_t stride_, blocks_;
  AlignedArray<float> data_;
};

// Products -> l, with bias, softcap and temperature.
template <class T>
void finish_tile(const Problem& p, const Tile& tile) {
  for_each_lanes(tile, [&](int64_t, const Column& c) { finish<T>(p, c); });
}

// Partials and the targets' l; `row` is where the tile's first token stands among the partials.
[[maybe_unused]] inline void summarize_tile(const Rows& rows, const Tile& tile, int64_t row,
                                            Partials& partials, Statistics* statistics) {
  for_each_lanes(
      tile, [&](int64_t t, const Column& c) { partials.set(tile.column / kBlock, row + t, summarize(c)); });
  for_each_target(rows, tile, [&](int64_t t, int64_t v) {
    statistics[tile.first + t].target = static_cast<double>(tile.at(t, v));
  });
}

// The rows' coefficients as vectors, the first of `count` in the first lane.
[[maybe_unused]] inline AlignedArray<LaneCoefficients> lanes_of(const Coefficients* c, int64_t count) {
  auto lanes = make_aligned<LaneCoefficients>(ceil_div(count, kLanes));
  for (int64_t row = 0; row < count; row += kLanes) {
    float lse[kLanes] = {}, softmax[kLanes] = {}, all[kLanes] = {};
    for (int64_t i = 0; i < kLanes && row + i < count; ++i) {
      lse[i] = static_cast<float>(c[row + i].lse);
      softmax[i] = static_cast<float>(c[row + i].softmax);
      all[i] = static_cast<float>(c[row + i].all);
    }
    lanes[row / kLanes] = {load(lse), load(softmax), load(all)};
  }
  return lanes;
}

// l -> gradients, in place. `coefficients` are those of the tile's tokens, `lanes` the same as vectors.
[[maybe_unused]] inline void differentiate_tile(const Problem& p, const Rows& rows, const Tile& tile,
                                                const Coefficients* coefficients,
                                                const LaneCoefficients* lanes) {
  float at_target[kMostTokens];
  for_each_target(rows, tile, [&](int64_t t, int64_t v) {
    at_target[t] = gradient_at_target(p, coefficients[t], tile.at(t, v));
  });
  for_each_lanes(tile, [&](int64_t t, const Column& c) {
    differentiate(p, c, lanes[t / kLanes], [&](int64_t v, Vec g) { store(c.l + v * c.stride, g); });
  });
  for_each_target(rows, tile, [&](int64_t t, int64_t v) { tile.at(t, v) = at_target[t]; });
}

}  // namespace
}  // namespace pyllm::linear_cross_entropy
