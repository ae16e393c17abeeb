// The three products of a block of the vocabulary and some tokens, all around one layout of the logits:
//
//   tile [column of the vocabulary][token]    tokens are lanes, columns lie `stride` floats apart
//
//   tile         = weight * x^T       weight in strips of 16 rows, x^T in panels of kTokens, as core/chains.h
//   grad_x      += tile^T * weight    left: 12 neighbouring tokens of a column; weight in panels of columns
//   grad_weight += tile * x           left: a token of 12 columns; x in panels of columns
//
// So no operand is transposed twice and a tile never, and the last two products share one register tile:
//
//                 b0 b1               a row of the panel: 2 vectors        (AVX2: 6 rows x 2 vectors)
//        a[0]   [ .. .. ]
//        ..     [ 12 x 2 sums ]       per k: 2 loads, 12 broadcasts, 24 multiply-adds = 12 cycles
//        a[11]  [ .. .. ]
#pragma once

#include <atomic>

#include "core/aligned.h"
#include "core/chains.h"
#include "ops/linear_cross_entropy/logits.h"

namespace pyllm::linear_cross_entropy {
namespace {

constexpr int64_t kTokens = kWidePanel;
static_assert(kBlock % kStripRows == 0);

// Rows [first, first + count) of x with columns [begin, begin + width), as floats, `stride` apart.
template <class T>
[[maybe_unused]] void gather(const Problem& p, const Rows& rows, int64_t first, int64_t count, int64_t begin,
                             int64_t width, float* to, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) {
    const T* from = static_cast<const T*>(p.x) + rows.token[first + i] * p.hidden + begin;
    to_float(from, to + i * stride, width);
  }
}

// A panel of x^T for the logits; `room` holds kTokens rows of x.
template <class T>
[[maybe_unused]] void pack_tokens(const Problem& p, const Rows& rows, int64_t first, int64_t count,
                                  const Chains& chains, float* room, float* panel) {
  gather<T>(p, rows, first, count, 0, p.hidden, room, p.hidden);
  pack_matrix<kWidePanel>(room, 1, p.hidden, p.hidden, count, chains, panel);
}

// A block of the weight for the logits.
template <class T>
[[maybe_unused]] void pack_strips(const Problem& p, int64_t column, int64_t columns, const Chains& chains,
                                  float* strips) {
  const T* from = static_cast<const T*>(p.weight) + column * p.hidden;
  pack_matrix<kStripRows>(from, 1, p.hidden, p.hidden, columns, chains, strips);
}

// f(one chain, the packed row at which it begins, whether it is the first) in the order of core/chains.h.
template <class F>
void for_each_chain(const Chains& chains, const F& f) {
  const Chains one = {chains.stride, chains.length, 1, 1};
  for (int64_t i = 0; i < chains.blocks * chains.count; ++i) f(one, i * chains.length, i == 0);
}

// The tile's products, x^T in panels; bits of ops/linear.
[[maybe_unused]] inline void multiply_logits(const float* strips, int64_t columns, const float* panels,
                                             int64_t tokens, const Chains& chains, float* tile,
                                             int64_t stride) {
  for (int64_t block = 0; block < chains.blocks; ++block) {
    for (int64_t v = 0; v < columns; v += kStripRows) {
      const float* strip = strips + (v * chains.blocks + block * kStripRows) * chains.depth();
      for (int64_t t = 0; t < tokens; t += kTokens) {
        const float* panel = panels + (t * chains.blocks + block * kTokens) * chains.depth();
        panel_tile(columns - v, tokens - t, strip, panel, chains, block == 0, tile + v * stride + t, stride);
      }
    }
  }
}

using Sums = Vec[kRows][kPanelVecs];

// Lines that are asked for while a tile is multiplied, kPanel floats of each row: what the next tiles read,
// or where they write. Memory answers in the time of a hundred multiply-adds and does not follow rows by
// itself.
struct Ahead {
  const float* at;
  int64_t stride;
};
constexpr int64_t kStepsPerLine = 3;
constexpr int64_t kLineFloats = kCacheLine / sizeof(float);
constexpr int64_t kLinesPerRow = (kPanel + kLineFloats - 1) / kLineFloats;

// Rows of `ahead` that a tile of `depth` k's asks for.
constexpr int64_t rows_ahead(int64_t depth) { return depth / (kStepsPerLine * kLinesPerRow); }

// sums += a b over `depth` k's: element (r, k) of a is a[r * row_step + k * k_step], row k of b at b + k *
// kPanel.
inline __attribute__((always_inline)) void multiply_tile(const float* a, int64_t row_step, int64_t k_step,
                                                         const float* b, int64_t depth, Ahead ahead,
                                                         Sums& sums) {
  const auto step = [&]() __attribute__((always_inline)) {
    const Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec x = set1(a[r * row_step]);
      sums[r][0] = fma(x, b0, sums[r][0]);
      sums[r][1] = fma(x, b1, sums[r][1]);
    }
    a += k_step;
    b += kPanel;
  };
  int64_t k = 0;
  for (; k + kStepsPerLine * kLinesPerRow <= depth; k += kStepsPerLine * kLinesPerRow) {
#pragma GCC unroll 2
    for (int64_t line = 0; line < kLinesPerRow; ++line) {
      __builtin_prefetch(ahead.at + line * kLineFloats);
#pragma GCC unroll 3
      for (int64_t i = 0; i < kStepsPerLine; ++i) step();
    }
    ahead.at += ahead.stride;
  }
  for (; k < depth; ++k) step();
}

// c (+)= sums, `rows` x `columns` of them.
inline void add_tile(const Sums& sums, int64_t rows, int64_t columns, bool first, float* c, int64_t stride) {
  static_assert(kPanelVecs == 2);
  const int64_t lanes[2] = {smaller(columns, kLanes), smaller(columns - kLanes, kLanes)};
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    float* to = c + r * stride;
    store_lanes(to, first ? sums[r][0] : load_lanes(to, lanes[0]) + sums[r][0], lanes[0]);
    if (lanes[1] <= 0) continue;
    to += kLanes;
    store_lanes(to, first ? sums[r][1] : load_lanes(to, lanes[1]) + sums[r][1], lanes[1]);
  }
}

// Columns of the vocabulary that a chain of grad_x takes: a panel of so many rows is 12 KB and stays in the
// first-level cache beside the tile's lines, of which every k needs another.
constexpr int64_t kGradXDepth = 96;
static_assert(kBlock % kGradXDepth == 0);

// `width` columns of the tokens' grad_x (+)= tile^T * one panel of weight. Each tile of sums asks for its
// share of the panel that is packed next.
[[maybe_unused]] inline void multiply_grad_x(const float* tile, int64_t stride, int64_t tokens,
                                             int64_t columns, const float* weight, Ahead next, int64_t width,
                                             bool first, float* grad_x, int64_t grad_stride) {
  for (int64_t t = 0; t < tokens; t += kRows) {
    Sums sums = {};
    multiply_tile(tile + t, 1, stride, weight, columns, next, sums);
    add_tile(sums, tokens - t, width, first, grad_x + t * grad_stride, grad_stride);
    next.at += rows_ahead(columns) * next.stride;
  }
}

constexpr int64_t kColumnsAtOnce = 4 * kRows;  // that pass a panel of x while it is in the first-level cache

// `width` columns of grad_weight (+)= tile * x, the tile's tokens as one chain; x in panels of `tokens` rows.
[[maybe_unused]] inline void multiply_grad_weight(const float* tile, int64_t stride, int64_t tokens,
                                                  int64_t columns, const float* x, int64_t width, bool first,
                                                  float* grad_weight, int64_t grad_stride) {
  for (int64_t begin = 0; begin < columns; begin += kColumnsAtOnce) {
    const int64_t end = smaller(columns, begin + kColumnsAtOnce);
    for (int64_t k = 0; k < width; k += kPanel) {
      for (int64_t v = begin; v < end; v += kRows) {
        float* to = grad_weight + v * grad_stride + k;
        const float* next =
            v + kRows < end ? to + kRows * grad_stride : grad_weight + begin * grad_stride + k + kPanel;
        Sums sums = {};
        multiply_tile(tile + v * stride, stride, 1, x + k * tokens, tokens, {next, grad_stride}, sums);
        add_tile(sums, columns - v, width - k, first, to, grad_stride);
      }
    }
  }
}

// grad_bias (+)= sums of the tile's columns over its tokens.
[[maybe_unused]] inline void add_grad_bias(const float* tile, int64_t stride, int64_t tokens, int64_t columns,
                                           bool first, float* grad_bias) {
  for (int64_t v = 0; v < columns; ++v) {
    Vec sum = zero();
    for_each_vec(tokens,
                 [&](int64_t t, int64_t lanes) { sum = sum + load_lanes(tile + v * stride + t, lanes); });
    grad_bias[v] = first ? reduce_add(sum) : grad_bias[v] + reduce_add(sum);
  }
}

// What a thread takes its next task from: one that the system holds up delays no other.
struct Tasks {
  std::atomic<int64_t> next{0};
  int64_t count;

  explicit Tasks(int64_t tasks) : count(tasks) {}
  bool take(int64_t& task) { return (task = next++) < count; }
};

}  // namespace
}  // namespace pyllm::linear_cross_entropy
