// A tile of logits is made, used and forgotten; memory never sees it.
//
// Forward. One task per block of kBlock vocabulary rows, so that a single token still uses every thread:
//
//   for block of weight rows                        (parallel)
//     pack the block                                kBlock x hidden floats: second-level cache
//     for tile of kTileRows tokens                  tile of logits: kTileRows x kBlock floats, 48 KB
//       logits = x tile * block;  per row: max, sum of exp, sum, target's logit
//   per token: blocks merged in order               (parallel)
//
// Backward. The logits are made again from x and weight: a fourth product against the three of a version that
// forms gradients during forward, but nothing is computed that nobody asks for, any gradient of any reduction
// comes through, and between the passes only lse is kept.
//
//   for block of weight rows                        (serial)
//     pack the block twice, for logits and grad_x   (parallel over panels)
//     g = gradient of the block's logits            (parallel over tiles of tokens)   tokens x kBlock floats
//     grad_x += g * block  |  grad_weight block = g^T * x      (parallel over tiles of tokens | strips of
//     rows)
//
// Floats moved per block: g three times, x twice, grad_x twice, for 6 * tokens * hidden * kBlock FLOPs.
// Scratch: tokens * (2 hidden + kBlock) + 2 kBlock hidden floats, independent of the vocabulary.
#include <cfloat>

#include "core/aligned.h"
#include "core/chains.h"
#include "core/exp2.h"
#include "core/levels.h"
#include "core/parallel.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace pyllm::linear_cross_entropy {
namespace {

constexpr int64_t kTileRows = 4 * kRows;  // tokens per task
constexpr int64_t kStrip = 2 * kRows;     // vocabulary rows per task of the weight gradient
constexpr int64_t kChunk = 512;           // tokens per packed piece of x
// Between rows of a tile. Rows a multiple of 2 KB apart would share few sets of the first-level cache.
constexpr int64_t kStride = kBlock + 16;
static_assert(kBlock % kPanel == 0 && kTileRows % kStripRows == 0);

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
const T* weight_row(const Problem& p, int64_t row) {
  return static_cast<const T*>(p.weight) + row * p.hidden;
}

// Rows [begin, begin + count) of x, as floats.
template <class T>
void gather(const Problem& p, const Rows& rows, int64_t begin, int64_t count, float* x) {
  for (int64_t i = 0; i < count; ++i) {
    to_float(static_cast<const T*>(p.x) + rows.token[begin + i] * p.hidden, x + i * p.hidden, p.hidden);
  }
}

// Logits of `count` rows from `begin` on and the packed block of weight rows: bits of ops/linear. `x` has
// room for the rows as floats and packed.
template <class T>
void block_logits(const Problem& p, const Rows& rows, int64_t begin, int64_t count, const float* packed,
                  int64_t columns, float* x, float* l) {
  const Chains chains = chains_of(p.hidden);
  float* strips = x + kTileRows * p.hidden;
  gather<T>(p, rows, begin, count, x);
  pack_matrix<kStripRows>(x, 1, p.hidden, p.hidden, count, chains, strips);
  chain_product(strips, packed, chains, count, columns, l, kStride);
}

AlignedArray<float> make_tile_rows(const Problem& p) {
  return make_aligned<float>(kTileRows * (p.hidden + chains_of(p.hidden).padded_depth()));
}

// Products x * weight^T -> l, in place, for the vocabulary's columns from `column`.
template <class T>
void finish_row(const Problem& p, int64_t column, int64_t columns, float* l) {
  const T* bias = p.bias ? static_cast<const T*>(p.bias) + column : nullptr;
  const Vec softcap = set1(static_cast<float>(p.softcap));
  const Vec scale = set1(static_cast<float>(1 / p.temperature));
  for_each_vec(columns, [&](int64_t i, int64_t lanes) {
    Vec v = load_lanes(l + i, lanes);
    if (bias) v = v + load_lanes(bias + i, lanes);
    if (p.softcap > 0) v = softcap * tanh(v / softcap);
    store_lanes(l + i, v * scale, lanes);
  });
}

// Of one row in one block: sum is that of exp(l - max).
struct Partial {
  float max, sum, total;
};

Partial summarize(const float* l, int64_t columns) {
  Vec highest = set1(-FLT_MAX), total = zero(), sum = zero();
  for_each_vec(columns, [&](int64_t i, int64_t lanes) {
    const Vec v = load_lanes(l + i, lanes);
    total = total + v;
    highest = max(lanes == kLanes ? v : select(first_lanes(lanes), v, set1(-FLT_MAX)), highest);
  });
  const float largest = reduce_max(highest);
  for_each_vec(columns, [&](int64_t i, int64_t lanes) {
    const Vec e = exp(load_lanes(l + i, lanes) - set1(largest));
    sum = sum + (lanes == kLanes ? e : select(first_lanes(lanes), e, zero()));
  });
  return {largest, reduce_add(sum), reduce_add(total)};
}

// One block against all rows; partial of row r goes to partials[r * stride].
template <class T>
void forward_block(const Problem& p, const Rows& rows, int64_t column, float* packed, float* x, float* tile,
                   Partial* partials, int64_t stride, Statistics* out) {
  const int64_t columns = smaller(p.vocab - column, kBlock);
  pack_matrix<kWidePanel>(weight_row<T>(p, column), 1, p.hidden, p.hidden, columns, chains_of(p.hidden),
                          packed);
  for (int64_t begin = 0; begin < rows.count; begin += kTileRows) {
    const int64_t count = smaller(rows.count - begin, kTileRows);
    block_logits<T>(p, rows, begin, count, packed, columns, x, tile);
    for (int64_t i = 0; i < count; ++i) {
      float* l = tile + i * kStride;
      finish_row<T>(p, column, columns, l);
      partials[(begin + i) * stride] = summarize(l, columns);
      const int64_t target = rows.target[begin + i] - column;
      if (target >= 0 && target < columns) out[begin + i].target = static_cast<double>(l[target]);
    }
  }
}

void merge(const Partial* partials, int64_t count, Statistics& s) {
  s.max = static_cast<double>(partials[0].max);
  for (int64_t i = 1; i < count; ++i) {
    const double max = static_cast<double>(partials[i].max);
    if (max > s.max) s.max = max;
  }
  s.sum = s.total = 0;
  for (int64_t i = 0; i < count; ++i) {
    s.sum +=
        static_cast<double>(partials[i].sum) * __builtin_exp(static_cast<double>(partials[i].max) - s.max);
    s.total += static_cast<double>(partials[i].total);
  }
}

template <class T>
void forward_as(const Problem& p, const Rows& rows, Statistics* out) {
  const int64_t blocks = ceil_div(p.vocab, kBlock);
  const auto partials = make_aligned<Partial>(rows.count * blocks);
  parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const auto packed =
        make_aligned<float>(packed_floats<kWidePanel>(chains_of(p.hidden), smaller(p.vocab, kBlock)));
    const auto x = make_tile_rows(p);
    const auto tile = make_aligned<float>(kTileRows * kStride);
    for (int64_t block = begin; block < end; ++block) {
      forward_block<T>(p, rows, block * kBlock, packed.get(), x.get(), tile.get(), partials.get() + block,
                       blocks, out);
    }
  });
  parallel_for(0, rows.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) merge(partials.get() + row * blocks, blocks, out[row]);
  });
}

// l -> its gradient, in place.
template <class T>
void gradient_row(const Problem& p, const Coefficients& c, int64_t target, int64_t columns, float* l) {
  const Vec lse = set1(static_cast<float>(c.lse)), softmax = set1(static_cast<float>(c.softmax));
  const Vec scale = set1(static_cast<float>(1 / p.temperature));
  const Vec bounded = set1(static_cast<float>(p.softcap > 0 ? p.temperature / p.softcap : 0));
  const auto gradient = [&](Vec v, Vec constant) {
    const Vec tanh = v * bounded;
    const Vec slope = fma(zero() - tanh, tanh, set1(1.0f)) * scale;
    return fma(exp(v - lse), softmax, zero() - constant) * slope;
  };
  const bool has_target = target >= 0 && target < columns;
  const float at_target = has_target ? l[target] : 0.0f;
  const Vec all = set1(static_cast<float>(c.all));
  for_each_vec(columns, [&](int64_t i, int64_t lanes) {
    store_lanes(l + i, gradient(load_lanes(l + i, lanes), all), lanes);
  });
  const Vec chosen = set1(static_cast<float>(c.all + c.target));
  if (has_target) store_partial(l + target, gradient(set1(at_target), chosen), 1);
}

// Everything that the phases of the backward share.
struct Workspace {
  AlignedArray<float> logit_panels;   // the block, packed for x * block^T
  AlignedArray<float> weight_panels;  // the block, packed for g * block
  AlignedArray<float> x_panels;       // x, packed for g^T * x in pieces of kChunk tokens
  AlignedArray<float> gradients;      // g, rows kStride apart
  AlignedArray<float> grad_x;
};

Workspace make_workspace(const Backward& b, const Rows& rows) {
  const int64_t hidden = b.problem.hidden;
  Workspace w;
  w.logit_panels = make_aligned<float>(packed_floats<kWidePanel>(chains_of(hidden), kBlock));
  w.gradients = make_aligned<float>(ceil_div(rows.count, kStripRows) * kStripRows * kStride);
  if (b.grad_x) {
    w.weight_panels = make_aligned<float>(packed_size(kBlock, hidden));
    w.grad_x = make_aligned<float>(rows.count * hidden);
  }
  if (b.grad_weight) w.x_panels = make_aligned<float>(packed_size(rows.count, hidden));
  return w;
}

template <class T>
void pack_x(const Problem& p, const Rows& rows, float* panels_of_x) {
  parallel_for(0, ceil_div(rows.count, kChunk), 1, [&](int64_t begin, int64_t end) {
    const auto x = make_aligned<float>(smaller(rows.count, kChunk) * p.hidden);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunk, count = smaller(rows.count - first, kChunk);
      gather<T>(p, rows, first, count, x.get());
      pack_panels(x.get(), p.hidden, 1, count, p.hidden, panels_of_x + first * panels(p.hidden) * kPanel);
    }
  });
}

template <class T>
void pack_block(const Backward& b, int64_t column, int64_t columns, const Workspace& w) {
  const int64_t hidden = b.problem.hidden;
  const T* block = weight_row<T>(b.problem, column);
  const Chains chains = chains_of(hidden);
  const int64_t for_logits = ceil_div(columns, kWidePanel), for_grad_x = b.grad_x ? panels(hidden) : 0;
  parallel_for(0, for_logits + for_grad_x, 2, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      if (task < for_logits) {
        const int64_t n = task * kWidePanel;
        pack_matrix<kWidePanel>(block + n * hidden, 1, hidden, hidden, smaller(columns - n, kWidePanel),
                                chains, w.logit_panels.get() + n * chains.padded_depth());
      } else {
        const int64_t n = (task - for_logits) * kPanel;
        pack_panels(block + n, hidden, 1, columns, smaller(hidden - n, kPanel),
                    w.weight_panels.get() + n * columns);
      }
    }
  });
}

template <class T>
void logit_gradients(const Problem& p, const Rows& rows, const Coefficients* coefficients, int64_t column,
                     int64_t columns, const Workspace& w) {
  parallel_for(0, ceil_div(rows.count, kTileRows), 1, [&](int64_t begin, int64_t end) {
    const auto x = make_tile_rows(p);
    for (int64_t first = begin * kTileRows; first < smaller(end * kTileRows, rows.count);
         first += kTileRows) {
      const int64_t count = smaller(rows.count - first, kTileRows);
      float* g = w.gradients.get() + first * kStride;
      block_logits<T>(p, rows, first, count, w.logit_panels.get(), columns, x.get(), g);
      for (int64_t i = 0; i < count; ++i) {
        finish_row<T>(p, column, columns, g + i * kStride);
        gradient_row<T>(p, coefficients[first + i], rows.target[first + i] - column, columns,
                        g + i * kStride);
      }
    }
  });
}

// Rows [column + begin, column + begin + count) of grad_weight and grad_bias. Tokens are added in pieces of
// kChunk, in order.
template <class T>
void weight_gradient(const Backward& b, const Rows& rows, int64_t column, int64_t begin, int64_t count,
                     const Workspace& w, float* transposed, float* sums) {
  const int64_t hidden = b.problem.hidden;
  float bias_sums[kStrip] = {};
  for (int64_t i = 0; i < count * hidden; ++i) sums[i] = 0.0f;
  for (int64_t first = 0; first < rows.count; first += kChunk) {
    const int64_t depth = smaller(rows.count - first, kChunk);
    const float* g = w.gradients.get() + first * kStride + begin;
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < count; ++i) transposed[i * kChunk + k] = g[k * kStride + i];
    }
    for (int64_t i = 0; i < count; ++i) {
      Vec sum = zero();
      for_each_vec(depth, [&](int64_t k, int64_t lanes) {
        sum = sum + load_lanes(transposed + i * kChunk + k, lanes);
      });
      bias_sums[i] += reduce_add(sum);
    }
    if (!b.grad_weight) continue;
    const float* x = w.x_panels.get() + first * panels(hidden) * kPanel;
    gemm(transposed, kChunk, x, sums, hidden, count, hidden, depth, true);
  }
  const int64_t row = column + begin;
  if (b.grad_bias) from_float(bias_sums, static_cast<T*>(b.grad_bias) + row, count);
  if (b.grad_weight) from_float(sums, static_cast<T*>(b.grad_weight) + row * hidden, count * hidden);
}

// What follows from the block's g.
template <class T>
void use_gradients(const Backward& b, const Rows& rows, int64_t column, int64_t columns, const Workspace& w) {
  const int64_t hidden = b.problem.hidden;
  const int64_t tiles = b.grad_x ? ceil_div(rows.count, kTileRows) : 0;
  const int64_t strips = b.grad_weight || b.grad_bias ? ceil_div(columns, kStrip) : 0;
  parallel_for(0, tiles + strips, 1, [&](int64_t begin, int64_t end) {
    const auto transposed = make_aligned<float>(kStrip * kChunk);
    const auto sums = make_aligned<float>(kStrip * hidden);
    for (int64_t task = begin; task < end; ++task) {
      if (task < tiles) {
        const int64_t first = task * kTileRows;
        gemm(w.gradients.get() + first * kStride, kStride, w.weight_panels.get(),
             w.grad_x.get() + first * hidden, hidden, smaller(rows.count - first, kTileRows), hidden, columns,
             column > 0);
      } else {
        const int64_t first = (task - tiles) * kStrip;
        weight_gradient<T>(b, rows, column, first, smaller(columns - first, kStrip), w, transposed.get(),
                           sums.get());
      }
    }
  });
}

template <class T>
void backward_as(const Backward& b, const Rows& rows, const Coefficients* coefficients) {
  const Problem& p = b.problem;
  const Workspace w = make_workspace(b, rows);
  if (b.grad_weight) pack_x<T>(p, rows, w.x_panels.get());
  for (int64_t column = 0; column < p.vocab; column += kBlock) {
    const int64_t columns = smaller(p.vocab - column, kBlock);
    pack_block<T>(b, column, columns, w);
    logit_gradients<T>(p, rows, coefficients, column, columns, w);
    use_gradients<T>(b, rows, column, columns, w);
  }
  if (!b.grad_x) return;
  parallel_for(0, rows.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      from_float(w.grad_x.get() + row * p.hidden, static_cast<T*>(b.grad_x) + rows.token[row] * p.hidden,
                 p.hidden);
    }
  });
}

void run_forward(const Problem& p, const Rows& rows, Statistics* out) {
  if (p.dtype == DType::f32) forward_as<float>(p, rows, out);
  if (p.dtype == DType::bf16) forward_as<bfloat16>(p, rows, out);
  if (p.dtype == DType::f16) forward_as<float16>(p, rows, out);
}

void run_backward(const Backward& b, const Rows& rows, const Coefficients* coefficients) {
  const DType dtype = b.problem.dtype;
  if (dtype == DType::f32) backward_as<float>(b, rows, coefficients);
  if (dtype == DType::bf16) backward_as<bfloat16>(b, rows, coefficients);
  if (dtype == DType::f16) backward_as<float16>(b, rows, coefficients);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward, run_backward};

}  // namespace pyllm::linear_cross_entropy
