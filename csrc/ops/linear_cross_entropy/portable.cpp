// Each direction alone; a tile of logits is made, used and forgotten.
//
// Forward. One task per block of kBlock vocabulary rows, so that a single token still uses every thread:
//
//   pack x^T                                        (parallel over panels of tokens)   tokens x hidden floats
//   for block of weight rows                        (parallel)
//     pack the block                                kBlock x hidden floats: second-level cache
//     for 96 tokens                                 tile of logits: 72 KB
//       logits = block * x^T;  per token: max, sum of exp, total, target's logit
//   per token: blocks merged in order               (parallel)
//
// Backward. The logits are made again from x and weight: a fourth product against the three of
// portable_fused.cpp, but any gradient of any reduction comes through, and between the passes only lse is
// kept.
//
//   pack x^T                                        (parallel over panels of tokens)
//   for block of weight rows                        (serial)
//     pack the block twice, for logits and grad_x   (parallel over strips and panels)
//     g = gradient of the block's logits            (parallel over panels of tokens)    tokens x kBlock
//     floats grad_x += g^T * block                         (parallel over panels of tokens, together with
//     grad_weight block = g * x                      slices of its columns; x is packed on the way)
//
// Floats moved per block: g three times, x twice, grad_x twice, for 8 * tokens * hidden * kBlock FLOPs.
#include "core/levels.h"
#include "core/parallel.h"
#include "ops/linear_cross_entropy/tiles.h"

namespace pyllm::linear_cross_entropy {
namespace {

constexpr int64_t kGroup = 96;  // tokens of a tile
static_assert(kGroup % kTokens == 0 && kGroup <= kMostTokens);
constexpr int64_t kSlice = 4 * kPanel;  // columns of grad_weight per task

// x^T, packed for the logits.
template <class T>
AlignedArray<float> pack_all_tokens(const Problem& p, const Rows& rows, const Chains& chains) {
  auto panels = make_aligned<float>(packed_floats<kWidePanel>(chains, rows.count));
  parallel_for(0, ceil_div(rows.count, kTokens), 1, [&](int64_t begin, int64_t end) {
    const auto room = make_aligned<float>(kTokens * p.hidden);
    for (int64_t t = begin * kTokens; t < smaller(end * kTokens, rows.count); t += kTokens) {
      pack_tokens<T>(p, rows, t, smaller(kTokens, rows.count - t), chains, room.get(),
                     panels.get() + t * chains.padded_depth());
    }
  });
  return panels;
}

template <class T>
void forward_as(const Problem& p, const Rows& rows, Statistics* out) {
  const Chains chains = chains_of(p.hidden);
  const auto panels = pack_all_tokens<T>(p, rows, chains);
  Partials partials(rows.count, ceil_div(p.vocab, kBlock));
  Tasks tasks(ceil_div(p.vocab, kBlock));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    const auto strips = make_aligned<float>(packed_floats<kStripRows>(chains, kBlock));
    const auto room = make_aligned<float>(kGroup * kBlock + kRows);
    for (int64_t block; tasks.take(block);) {
      const int64_t column = block * kBlock, columns = smaller(p.vocab - column, kBlock);
      pack_strips<T>(p, column, columns, chains, strips.get());
      for (int64_t t = 0; t < rows.count; t += kGroup) {
        const Tile tile = {t, smaller(kGroup, rows.count - t), column, columns, room.get(), kGroup};
        multiply_logits(strips.get(), columns, panels.get() + t * chains.padded_depth(), tile.count, chains,
                        tile.l, tile.stride);
        finish_tile<T>(p, tile);
        summarize_tile(rows, tile, t, partials, out);
      }
    }
  });
  parallel_for(0, rows.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) partials.merge(row, out[row]);
  });
}

// Everything that the phases of the backward share.
template <class T>
struct Workspace {
  const Backward& b;
  const Problem& p;
  const Rows& rows;
  const Coefficients* coefficients;
  Chains chains;
  AlignedArray<LaneCoefficients> lanes;
  AlignedArray<float> x;       // x^T, packed
  AlignedArray<float> strips;  // the block, packed for the logits
  AlignedArray<float> weight;  // the block, packed for grad_x
  AlignedArray<float> tiles;   // g
  AlignedArray<float> grad_x;

  Workspace(const Backward& backward, const Rows& r, const Coefficients* c)
      : b(backward),
        p(b.problem),
        rows(r),
        coefficients(c),
        chains(chains_of(p.hidden)),
        lanes(lanes_of(c, rows.count)),
        x(pack_all_tokens<T>(p, rows, chains)),
        strips(make_aligned<float>(packed_floats<kStripRows>(chains, kBlock))),
        tiles(make_aligned<float>(ceil_div(rows.count, kGroup) * kGroup * kBlock + kRows)) {
    if (!b.grad_x) return;
    weight = make_aligned<float>(packed_size(kBlock, p.hidden));
    grad_x = make_aligned<float>(rows.count * p.hidden);
  }
};

template <class T>
void pack_block(const Workspace<T>& w, int64_t column, int64_t columns) {
  const int64_t hidden = w.p.hidden, strips = ceil_div(columns, kStripRows);
  const int64_t weight_panels = w.b.grad_x ? panels(hidden) : 0;
  const T* block = static_cast<const T*>(w.p.weight) + column * hidden;
  parallel_for(0, strips + weight_panels, 4, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      if (task < strips) {
        const int64_t v = task * kStripRows;
        pack_strips<T>(w.p, column + v, smaller(columns - v, kStripRows), w.chains,
                       w.strips.get() + v * w.chains.padded_depth());
      } else {
        const int64_t k = (task - strips) * kPanel;
        pack_panel<kPanel>(block + k, hidden, 1, columns, smaller(hidden - k, kPanel),
                           w.weight.get() + k * columns);
      }
    }
  });
}

template <class T>
void make_gradients(const Workspace<T>& w, int64_t column, int64_t columns) {
  Tasks tasks(ceil_div(w.rows.count, kGroup));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    for (int64_t task; tasks.take(task);) {
      const int64_t t = task * kGroup;
      const int64_t count = smaller(kGroup, w.rows.count - t);
      const Tile tile = {t, count, column, columns, w.tiles.get() + t * kBlock, kGroup};
      multiply_logits(w.strips.get(), columns, w.x.get() + t * w.chains.padded_depth(), count, w.chains,
                      tile.l, tile.stride);
      finish_tile<T>(w.p, tile);
      differentiate_tile(w.p, w.rows, tile, w.coefficients + t, w.lanes.get() + t / kLanes);
    }
  });
}

// Columns [k, k + width) of the block's rows of grad_weight; `x` and `sums` are scratch.
template <class T>
void weight_gradient(const Workspace<T>& w, int64_t column, int64_t columns, int64_t k, int64_t width,
                     float* x, float* sums) {
  for (int64_t i = 0; w.rows.count == 0 && i < kBlock * kSlice; ++i) sums[i] = 0.0f;
  for (int64_t t = 0; t < w.rows.count; t += kGroup) {
    const int64_t tokens = smaller(kGroup, w.rows.count - t);
    for (int64_t panel = 0; panel < width; panel += kPanel) {
      gather<T>(w.p, w.rows, t, tokens, k + panel, smaller(kPanel, width - panel), x + panel * tokens,
                kPanel);
    }
    multiply_grad_weight(w.tiles.get() + t * kBlock, kGroup, tokens, columns, x, width, t == 0, sums, kSlice);
  }
  for (int64_t v = 0; v < columns; ++v) {
    const int64_t at = (column + v) * w.p.hidden + k;
    if (w.b.wide_grad_weight) {
      from_float(sums + v * kSlice, static_cast<float*>(w.b.grad_weight) + at, width);
    } else {
      from_float(sums + v * kSlice, static_cast<T*>(w.b.grad_weight) + at, width);
    }
  }
}

template <class T>
void bias_gradient(const Workspace<T>& w, int64_t column, int64_t columns) {
  float sums[kBlock] = {};
  for (int64_t t = 0; t < w.rows.count; t += kGroup) {
    add_grad_bias(w.tiles.get() + t * kBlock, kGroup, smaller(kGroup, w.rows.count - t), columns, t == 0,
                  sums);
  }
  from_float(sums, static_cast<T*>(w.b.grad_bias) + column, columns);
}

// grad_x (+)= g^T * block for the tokens of the group that begins at `t`.
template <class T>
void add_grad_x(const Workspace<T>& w, int64_t column, int64_t columns, int64_t t) {
  const int64_t hidden = w.p.hidden, count = smaller(kGroup, w.rows.count - t);
  const float* tile = w.tiles.get() + t * kBlock;
  for (int64_t v = 0; v < columns; v += kGradXDepth) {
    for (int64_t k = 0; k < hidden; k += kPanel) {
      const float* panel = w.weight.get() + k * columns + v * kPanel;
      multiply_grad_x(tile + v * kGroup, kGroup, count, smaller(kGradXDepth, columns - v), panel, {panel, 0},
                      smaller(kPanel, hidden - k), column + v == 0, w.grad_x.get() + t * hidden + k, hidden);
    }
  }
}

// What follows from the block's g.
template <class T>
void use_gradients(const Workspace<T>& w, int64_t column, int64_t columns) {
  const int64_t hidden = w.p.hidden, count = w.rows.count;
  const int64_t groups = w.b.grad_x ? ceil_div(count, kGroup) : 0;
  const int64_t slices = w.b.grad_weight ? ceil_div(hidden, kSlice) : 0;
  Tasks tasks(groups + slices + (w.b.grad_bias ? 1 : 0));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    const auto x = make_aligned<float>(kGroup * kSlice);
    const auto sums = make_aligned<float>(kBlock * kSlice);
    for (int64_t task; tasks.take(task);) {
      if (task < slices) {
        const int64_t k = task * kSlice;
        weight_gradient<T>(w, column, columns, k, smaller(kSlice, hidden - k), x.get(), sums.get());
      } else if (task < slices + groups) {
        const int64_t t = (task - slices) * kGroup;
        add_grad_x<T>(w, column, columns, t);
      } else {
        bias_gradient<T>(w, column, columns);
      }
    }
  });
}

template <class T>
void backward_as(const Backward& b, const Rows& rows, const Coefficients* coefficients) {
  const Workspace<T> w(b, rows, coefficients);
  const Problem& p = b.problem;
  for (int64_t column = 0; column < p.vocab; column += kBlock) {
    const int64_t columns = smaller(p.vocab - column, kBlock);
    pack_block<T>(w, column, columns);
    make_gradients<T>(w, column, columns);
    use_gradients<T>(w, column, columns);
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
