// bf16 on matrix units: the loops, around a kernel that multiplies packed panels. Included by amx.cpp and
// avx512_bf16.cpp.
//
// Forward. One task per block of kBlock vocabulary rows:
//
//   pack x for the logits                           parallel
//   for block of weight rows                        parallel
//     pack the block                                kBlock x hidden bf16: 221 KB for 576, second-level cache
//     for 96 tokens                                 tile of logits: 72 KB, second-level cache
//       logits = block * x^T;  per token: max, sum of exp, total, target's logit
//
// Backward. The logits are made again, so a tile never leaves its core; its gradient leaves it in bf16, once:
//
//   pack x twice, by rows and by columns            parallel
//   for block of weight rows                        serial
//     pack the block twice                          parallel
//     for 96 tokens                                 parallel
//       logits = block * x^T                        tile of floats, 72 KB
//       g = their gradient in bf16                  36 KB, packed twice
//       grad_x^T += block^T * g
//     grad_weight block = g * x                     parallel over panels of its columns, all tokens in one
//     pass
//
// Every product has 32 x 32 sums in registers (AMX: four tiles) and reads 128 bytes of both operands for each
// 32 products of tiles' lines. Its operands lie in panels of 32 rows (core/tile_pack.h). Left operands (A)
// are the weight's rows, its columns and g's rows; right ones (B) x's rows, g's columns and x's columns.
//
// A kernel is a struct of
//   Scope                    held while a thread multiplies
//   kLeft                    the form it wants of A; B is always pairs
//   multiply(a, b, steps, add, c, stride)     32 x 32 elements of c (+)= a b, all steps
//
// Bytes of scratch: 10 a token and hidden element, 2 * kBlock a token.
#pragma once

#include <cstring>

#include "core/parallel.h"
#include "core/tile_pack.h"
#include "ops/linear_cross_entropy/tiles.h"

namespace pyllm::linear_cross_entropy {
namespace {

constexpr int64_t kGroup = 3 * kPanelRows;  // tokens of a tile
constexpr int64_t kPanelsAtOnce = 4;        // panels of grad_weight's columns per task
static_assert(kBlock % kPanelRows == 0 && kGroup <= kMostTokens);

// A packed operand.
class Packed {
 public:
  Packed(int64_t rows, int64_t depth)
      : steps_(ceil_div(depth, kTileDepth)),
        data_(make_aligned<char>(ceil_div(rows, kPanelRows) * kPanelTiles * steps_ * kTileBytes)) {}

  Panels from(int64_t panel, int64_t step) const {
    const Panels all = {data_.get(), kPanelTiles, steps_};
    return {all.tile(panel, step, 0), kPanelTiles, steps_};
  }
  TileSource panel(int64_t panel, int64_t step = 0) const { return source_of(from(panel, step), 0, 0); }
  int64_t steps() const { return steps_; }

 private:
  int64_t steps_;
  AlignedArray<char> data_;
};

// Packs whole operands in parallel, panel by panel.
[[maybe_unused]] inline void pack(const Side& side, Form form, const Packed& to) {
  parallel_for(0, ceil_div(side.rows, kPanelRows), 1, [&](int64_t begin, int64_t end) {
    const Window window = {begin * kPanelRows, smaller(side.rows, end * kPanelRows), 0, to.steps()};
    pack_window(side, form, window, to.from(begin, 0));
  });
}

// The counted rows of x, side by side.
[[maybe_unused]] inline AlignedArray<bfloat16> gather_rows(const Problem& p, const Rows& rows) {
  auto x = make_aligned<bfloat16>(rows.count * p.hidden);
  parallel_for(0, rows.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const bfloat16* from = static_cast<const bfloat16*>(p.x) + rows.token[row] * p.hidden;
      std::memcpy(x.get() + row * p.hidden, from, static_cast<std::size_t>(p.hidden) * sizeof(bfloat16));
    }
  });
  return x;
}

[[maybe_unused]] inline Side weight_rows(const Problem& p, int64_t column, int64_t columns) {
  return {static_cast<const bfloat16*>(p.weight) + column * p.hidden, p.hidden, 1, columns, p.hidden};
}
[[maybe_unused]] inline Side weight_columns(const Problem& p, int64_t column, int64_t columns) {
  return {static_cast<const bfloat16*>(p.weight) + column * p.hidden, 1, p.hidden, p.hidden, columns};
}

// l of a tile, from the block and x packed for the logits.
template <class Kernel>
void make_tile(const Problem& p, const Packed& block, const Packed& x, const Tile& tile) {
  for (int64_t t = 0; t < tile.count; t += kPanelRows) {
    const TileSource b = x.panel((tile.first + t) / kPanelRows);
    for (int64_t v = 0; v < tile.columns; v += kPanelRows) {
      Kernel::multiply(block.panel(v / kPanelRows), b, block.steps(), false, tile.l + v * tile.stride + t,
                       tile.stride);
    }
  }
  finish_tile<bfloat16>(p, tile);
}

template <class Kernel>
void forward_bf16(const Problem& p, const Rows& rows, Statistics* out) {
  const auto dense = gather_rows(p, rows);
  const Packed x(rows.count, p.hidden);
  pack({dense.get(), p.hidden, 1, rows.count, p.hidden}, Form::pairs, x);
  Partials partials(rows.count, ceil_div(p.vocab, kBlock));
  Tasks tasks(ceil_div(p.vocab, kBlock));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    const Packed packed(kBlock, p.hidden);
    const auto room = make_aligned<float>(kBlock * kGroup);
    [[maybe_unused]] const typename Kernel::Scope scope;
    for (int64_t block; tasks.take(block);) {
      const int64_t column = block * kBlock, columns = smaller(p.vocab - column, kBlock);
      pack_window(weight_rows(p, column, columns), Kernel::kLeft, {0, columns, 0, packed.steps()},
                  packed.from(0, 0));
      for (int64_t t = 0; t < rows.count; t += kGroup) {
        const Tile tile = {t, smaller(kGroup, rows.count - t), column, columns, room.get(), kGroup};
        make_tile<Kernel>(p, packed, x, tile);
        summarize_tile(rows, tile, t, partials, out);
      }
    }
  });
  parallel_for(0, rows.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) partials.merge(row, out[row]);
  });
}

// Everything that the phases of the backward share.
struct Workspace {
  const Backward& b;
  const Problem& p;
  const Rows& rows;
  const Coefficients* coefficients;
  AlignedArray<LaneCoefficients> lanes;
  Packed x_by_row, x_by_column;   // for the logits, for grad_weight
  Packed by_row, by_column;       // the block, for the logits, for grad_x
  Packed g;                       // of the block, for grad_weight
  int64_t stride;                 // between rows of grad_x
  AlignedArray<float> grad_x;     // transposed: hidden x tokens
  AlignedArray<float> bias_sums;  // of each group

  Workspace(const Backward& backward, const Rows& r, const Coefficients* c)
      : b(backward),
        p(b.problem),
        rows(r),
        coefficients(c),
        lanes(lanes_of(c, rows.count)),
        x_by_row(rows.count, p.hidden),
        x_by_column(b.grad_weight ? p.hidden : 0, rows.count),
        by_row(kBlock, p.hidden),
        by_column(b.grad_x ? p.hidden : 0, kBlock),
        g(b.grad_weight ? kBlock : 0, rows.count),
        stride(ceil_div(rows.count, kGroup) * kGroup),
        grad_x(make_aligned<float>(b.grad_x ? ceil_div(p.hidden, kPanelRows) * kPanelRows * stride : 0)),
        bias_sums(make_aligned<float>(b.grad_bias ? kBlock * (stride / kGroup) : 0)) {}
};

template <class Kernel>
void pack_block(const Workspace& w, int64_t column, int64_t columns) {
  pack(weight_rows(w.p, column, columns), Kernel::kLeft, w.by_row);
  if (w.b.grad_x) pack(weight_columns(w.p, column, columns), Kernel::kLeft, w.by_column);
}

// l -> gradients in bf16, `kGroup` tokens a row; those of tokens that do not exist are zero.
[[maybe_unused]] inline void narrow_gradients(const Workspace& w, const Tile& tile, bfloat16* g) {
  differentiate_tile(w.p, w.rows, tile, w.coefficients + tile.first, w.lanes.get() + tile.first / kLanes);
  for (int64_t v = 0; v < tile.columns; ++v) {
    for (int64_t t = 0; t < kGroup; t += kLanes) {
      const int64_t lanes = smaller(tile.count - t, kLanes);
      store(g + v * kGroup + t, lanes > 0 ? load_lanes(tile.l + v * tile.stride + t, lanes) : zero());
    }
  }
}

// Rows of grad_x^T of the tile's tokens (+)= block^T * g.
template <class Kernel>
void add_grad_x(const Workspace& w, const Tile& tile, const bfloat16* g, const Packed& packed) {
  const Side side = {g, 1, kGroup, tile.count, tile.columns};
  const int64_t steps = ceil_div(tile.columns, kTileDepth);
  pack_window(side, Form::pairs, {0, tile.count, 0, steps}, packed.from(0, 0));
  for (int64_t k = 0; k < w.p.hidden; k += kPanelRows) {
    for (int64_t t = 0; t < tile.count; t += kPanelRows) {
      Kernel::multiply(w.by_column.panel(k / kPanelRows), packed.panel(t / kPanelRows), steps,
                       tile.column > 0, w.grad_x.get() + k * w.stride + tile.first + t, w.stride);
    }
  }
}

template <class Kernel>
void make_gradients(const Workspace& w, int64_t column, int64_t columns) {
  Tasks tasks(ceil_div(w.rows.count, kGroup));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    const auto room = make_aligned<float>(kBlock * kGroup);
    const auto g = make_aligned<bfloat16>(kBlock * kGroup);
    const Packed packed(kGroup, kBlock);
    [[maybe_unused]] const typename Kernel::Scope scope;
    for (int64_t group; tasks.take(group);) {
      const int64_t t = group * kGroup;
      const Tile tile = {t, smaller(kGroup, w.rows.count - t), column, columns, room.get(), kGroup};
      make_tile<Kernel>(w.p, w.by_row, w.x_by_row, tile);
      narrow_gradients(w, tile, g.get());
      if (w.b.grad_x) add_grad_x<Kernel>(w, tile, g.get(), packed);
      if (w.b.grad_bias) {
        add_grad_bias(tile.l, tile.stride, tile.count, columns, true, w.bias_sums.get() + group * kBlock);
      }
      if (w.b.grad_weight) {
        const int64_t first = t / kTileDepth, steps = ceil_div(tile.count, kTileDepth);
        pack_window({g.get(), kGroup, 1, columns, tile.count}, Kernel::kLeft, {0, columns, 0, steps},
                    w.g.from(0, first));
      }
    }
  });
}

// 32 x 32 elements of grad_weight, rounded once.
[[maybe_unused]] inline void store_grad_weight(const Workspace& w, const float* sums, int64_t row,
                                               int64_t k) {
  const int64_t rows = smaller(kPanelRows, w.p.vocab - row), columns = smaller(kPanelRows, w.p.hidden - k);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (row + i) * w.p.hidden + k;
    if (w.b.wide_grad_weight) {
      from_float(sums + i * kPanelRows, static_cast<float*>(w.b.grad_weight) + at, columns);
    } else {
      from_float(sums + i * kPanelRows, static_cast<bfloat16*>(w.b.grad_weight) + at, columns);
    }
  }
}

template <class Kernel>
void use_gradients(const Workspace& w, int64_t column, int64_t columns) {
  const int64_t panel_count = ceil_div(w.p.hidden, kPanelRows);
  Tasks tasks(ceil_div(panel_count, kPanelsAtOnce));
  parallel_for(0, tasks.count, 1, [&](int64_t, int64_t) {
    alignas(kCacheLine) float sums[kPanelRows * kPanelRows];
    [[maybe_unused]] const typename Kernel::Scope scope;
    for (int64_t task; tasks.take(task);) {
      const int64_t begin = task * kPanelsAtOnce, end = smaller(panel_count, begin + kPanelsAtOnce);
      for (int64_t v = 0; v < columns; v += kPanelRows) {
        for (int64_t panel = begin; panel < end; ++panel) {
          Kernel::multiply(w.g.panel(v / kPanelRows), w.x_by_column.panel(panel), w.g.steps(), false, sums,
                           kPanelRows);
          store_grad_weight(w, sums, column + v, panel * kPanelRows);
        }
      }
    }
  });
}

// Groups in order.
[[maybe_unused]] inline void finish_grad_bias(const Workspace& w, int64_t column, int64_t columns) {
  float sums[kBlock] = {};
  for (int64_t group = 0; group < ceil_div(w.rows.count, kGroup); ++group) {
    for (int64_t v = 0; v < columns; ++v) sums[v] += w.bias_sums[group * kBlock + v];
  }
  from_float(sums, static_cast<bfloat16*>(w.b.grad_bias) + column, columns);
}

[[maybe_unused]] inline void finish_grad_x(const Workspace& w) {
  const int64_t hidden = w.p.hidden;
  parallel_for(0, ceil_div(w.rows.count, kLanes), 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin * kLanes; t < smaller(end * kLanes, w.rows.count); t += kLanes) {
      for (int64_t k = 0; k < hidden; k += kLanes) {
        Vec rows[kLanes];
        for (int i = 0; i < kLanes; ++i) rows[i] = load(w.grad_x.get() + (k + i) * w.stride + t);
        transpose(rows);
        for (int i = 0; i < kLanes && t + i < w.rows.count; ++i) {
          bfloat16* to = static_cast<bfloat16*>(w.b.grad_x) + w.rows.token[t + i] * hidden + k;
          store_lanes(to, rows[i], smaller(kLanes, hidden - k));
        }
      }
    }
  });
}

template <class Kernel>
void backward_bf16(const Backward& b, const Rows& rows, const Coefficients* coefficients) {
  const Problem& p = b.problem;
  const Workspace w(b, rows, coefficients);
  {
    const auto dense = gather_rows(p, rows);
    pack({dense.get(), p.hidden, 1, rows.count, p.hidden}, Form::pairs, w.x_by_row);
    if (b.grad_weight) pack({dense.get(), 1, p.hidden, p.hidden, rows.count}, Form::pairs, w.x_by_column);
  }
  for (int64_t column = 0; column < p.vocab; column += kBlock) {
    const int64_t columns = smaller(p.vocab - column, kBlock);
    pack_block<Kernel>(w, column, columns);
    make_gradients<Kernel>(w, column, columns);
    if (b.grad_weight) use_gradients<Kernel>(w, column, columns);
    if (b.grad_bias) finish_grad_bias(w, column, columns);
  }
  if (b.grad_x) finish_grad_x(w);
}

}  // namespace
}  // namespace pyllm::linear_cross_entropy
