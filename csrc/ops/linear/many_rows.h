// Many rows: both operands are packed chain after chain (core/chains.h) and meet in register tiles. The
// operand with fewer rows is packed once for all tasks (shared); a task packs its part of the other one (its
// own), a block of depth at a time:
//
//   for stretches of the shared operand that fit kSharedFloats   serial, usually one
//     pack the stretch                                           parallel
//     for tasks = parts of the own operand x passes              parallel, whoever is free takes the next
//       for block of depth (at most 1024 k's)
//         pack the own part                                      kOwnFloats: second-level cache
//         for strip, for panel: a register tile                  what is shared streams past; sums: first
//         level
//       out = sums + bias, rounded once                          after the last block, tile by tile
//
// Nothing is packed twice up to kPass rows of the shared operand.
#pragma once

#include <atomic>

#include "ops/linear/finish.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kSharedFloats = int64_t{1} << 22;  // 16 MB
constexpr int64_t kOwnFloats = int64_t{1} << 17;     // 512 KB
constexpr int64_t kGroupFloats = int64_t{1} << 15;   // shared panels that all strips of a task pass in turn
constexpr int64_t kPass = 1024;                      // shared rows that a task multiplies
constexpr int64_t kTasks = 16;                       // wanted, while each has
constexpr int64_t kTaskProducts = int64_t{1} << 18;  // multiply-adds, which pay for a fork
constexpr int64_t kPackedFloats = int64_t{1} << 14;  // packed ones that do
constexpr int64_t kPiece = 96;                       // elements of a row
constexpr int64_t kSlice = 64;  // k's at a time of an operand whose k's are not contiguous: pages that the
                                // address cache holds

// Calls f(task, scratch of `floats`) for all tasks: a free thread takes the next, so that one the system
// holds up delays no other.
template <class F>
void for_each_task(int64_t tasks, int64_t floats, const F& f) {
  std::atomic<int64_t> next{0};
  parallel_for(0, tasks, 1, [&](int64_t, int64_t) {
    int64_t task = next++;
    if (task >= tasks) return;
    const Scratch scratch(floats);
    for (; task < tasks; task = next++) f(task, scratch.get());
  });
}

// Packed rows of one operand, one block of depth: groups of Width, `stride` floats apart.
template <int Width>
struct Groups {
  const float* data;
  int64_t stride;

  const float* at(int64_t row) const { return data + row / Width * stride; }
};
using Strips = Groups<kStripRows>;
using Panels = Groups<kWidePanel>;

template <int Width, class T>
void pack_block(const Operand& operand, int64_t first, int64_t count, int64_t depth, const Chains& chains,
                int64_t block, float* to, int64_t stride) {
  const int64_t k = block * chains.depth(), rest = smaller(depth - k, chains.depth());
  const int64_t slice_depth = operand.stride_k == 1 ? chains.depth() + 1 : kSlice;
  for (int64_t slice = 0; slice < rest || slice == 0; slice += slice_depth) {
    float* group = to;
    for (int64_t row = 0; row < count; row += Width, group += stride) {
      if (slice == 0) zero_missing<Width>(rest, chains, group);
      pack_panel<Width>(at<T>(operand, first + row, k + slice), operand.stride_k, operand.stride,
                        smaller(rest - slice, slice_depth), smaller(count - row, Width),
                        group + chains(slice) * Width, chains);
    }
  }
}

// An operand packed whole: a group holds block after block.
template <int Width>
Groups<Width> block_of(const float* packed, const Chains& chains, int64_t first, int64_t block) {
  const int64_t stride = Width * chains.padded_depth();
  return {packed + first / Width * stride + block * chains.depth() * Width, stride};
}

template <int Width, class T>
void pack_rows(const Operand& operand, int64_t first, int64_t count, int64_t depth, const Chains& chains,
               float* packed) {
  const int64_t stride = Width * chains.padded_depth(), grain = 1 + kPackedFloats / (stride + 1);
  parallel_for(0, ceil_div(count, Width), grain, [&](int64_t begin, int64_t end) {
    const int64_t row = begin * Width, rows = smaller(count, end * Width) - row;
    for (int64_t b = 0; b < chains.blocks; ++b) {
      pack_block<Width, T>(operand, first + row, rows, depth, chains, b,
                           packed + begin * stride + b * chains.depth() * Width, stride);
    }
  });
}

struct Area {
  int64_t row, rows, column, columns;
};

// Where a tile of out will be written soon.
void prefetch_out(const Product& p, const Area& tile) {
  const int64_t size = size_of(p.out_dtype), width = tile.columns * size;
  char* to = static_cast<char*>(p.out) + (tile.row * p.out_stride + tile.column) * size;
  for (int64_t r = 0; r < tile.rows; ++r, to += p.out_stride * size) {
    for (int64_t i = 0; i < width; i += kCacheLine) __builtin_prefetch(to + i, 1);
  }
}

// One block of depth of one tile of out; `tile` says where out is. `sums` are those of the blocks before.
template <class T>
void product_tile(const Product& p, const Area& tile, const float* strip, const float* panel,
                  const Chains& chains, int64_t block, float* sums) {
  const bool full = tile.rows == kStripRows && tile.columns == kWidePanel;
  if (full && chains.blocks == 1 && p.out_dtype == DType::f32 && !p.bias) {
    // The sums of a single block are whole and are added up where they belong.
    if (chains.count > 1) prefetch_out(p, tile);
    float* out = static_cast<float*>(p.out) + tile.row * p.out_stride + tile.column;
    return panel_tile(tile.rows, tile.columns, strip, panel, chains, true, out, p.out_stride);
  }
  const bool last = block + 1 == chains.blocks;
  if (last) prefetch_out(p, tile);
  panel_tile(tile.rows, tile.columns, strip, panel, chains, block == 0, sums, kWidePanel);
  if (last) finish_tile<T>(p, tile.row, tile.rows, tile.column, tile.columns, sums, kWidePanel);
}

// One block of depth of an area, `group` columns at a time. `sums` holds the area tile by tile; a single
// block has no need of it.
template <class T>
void product_block(const Product& p, const Area& area, const Strips& strips, const Panels& panels,
                   int64_t group, const Chains& chains, int64_t block, float* sums) {
  alignas(kCacheLine) float one_tile[kStripRows * kWidePanel];
  const int64_t width = ceil_div(area.columns, kWidePanel) * kWidePanel;
  for (int64_t column = 0; column < area.columns; column += group) {
    const int64_t end = smaller(area.columns, column + group);
    for (int64_t row = 0; row < area.rows; row += kStripRows) {
      for (int64_t n = column; n < end; n += kWidePanel) {
        const Area tile = {area.row + row, smaller(area.rows - row, kStripRows), area.column + n,
                           smaller(area.columns - n, kWidePanel)};
        product_tile<T>(p, tile, strips.at(row), panels.at(n), chains, block,
                        chains.blocks == 1 ? one_tile : sums + row * width + n * kStripRows);
      }
    }
  }
}

// How one stretch is cut: `own` rows of the own operand times `pass` rows of the shared one are a task.
struct Cut {
  int64_t own, pass, own_parts, passes, own_floats, sums;

  int64_t tasks() const { return own_parts * passes; }
};

// The pieces of `count` groups when they are cut into equal ones of at most `most`.
inline int64_t even_groups(int64_t count, int64_t most) {
  return ceil_div(count, ceil_div(count, larger(most, 1)));
}

Cut cut_of(const Operand& own_operand, int64_t own_count, int64_t own_width, int64_t shared_count,
           int64_t shared_width, const Chains& chains) {
  const int64_t groups = ceil_div(own_count, own_width);
  const int64_t shared_groups = ceil_div(shared_count, shared_width);
  const int64_t pass = even_groups(shared_groups, kPass / shared_width) * shared_width;
  const int64_t passes = ceil_div(shared_count, pass);
  const int64_t fitting = larger(2, kOwnFloats / (own_width * chains.depth() + 1));
  // Rows of an operand without contiguous k's are read in pieces: one of 192 bytes wastes what the hardware
  // asks for behind it.
  const int64_t piece = own_operand.stride_k == 1 || groups < kTasks / 2 ? 1 : kPiece / own_width;
  const int64_t least =
      piece + kTaskProducts / (own_width * smaller(pass, shared_count) * chains.padded_depth() + 1);
  const int64_t own = even_groups(groups, smaller(fitting, larger(least, groups * passes / kTasks)));
  const int64_t floats = own * own_width * chains.depth();
  return {own * own_width, pass,   ceil_div(groups, own),
          passes,          floats, floats + (chains.blocks > 1 ? own * own_width * pass : 0)};
}

// Right panels are the tasks' own, or were packed before the call; the left operand's rows [first, first +
// count) are shared.
template <class T>
void share_left(const Product& p, int64_t first, int64_t count, const Chains& chains, float* strips) {
  pack_rows<kStripRows, T>(p.left, first, count, p.depth, chains, strips);
  const Cut cut = cut_of(p.right, p.columns, kWidePanel, count, kStripRows, chains);
  for_each_task(cut.tasks(), cut.sums, [&](int64_t task, float* own) {
    const int64_t row = task % cut.passes * cut.pass, column = task / cut.passes * cut.own;
    const Area area = {first + row, smaller(count - row, cut.pass), column,
                       smaller(p.columns - column, cut.own)};
    for (int64_t b = 0; b < chains.blocks; ++b) {
      const Panels panels = p.packed ? block_of<kWidePanel>(p.packed, chains, column, b)
                                     : Panels{own, kWidePanel * chains.depth()};
      if (!p.packed)
        pack_block<kWidePanel, T>(p.right, column, area.columns, p.depth, chains, b, own,
                                  kWidePanel * chains.depth());
      product_block<T>(p, area, block_of<kStripRows>(strips, chains, row, b), panels, cut.own, chains, b,
                       own + cut.own_floats);
    }
  });
}

// The other way round.
template <class T>
void share_right(const Product& p, int64_t first, int64_t count, const Chains& chains, float* packed) {
  pack_rows<kWidePanel, T>(p.right, first, count, p.depth, chains, packed);
  const Cut cut = cut_of(p.left, p.rows, kStripRows, count, kWidePanel, chains);
  const int64_t group = larger(1, kGroupFloats / (kWidePanel * chains.depth() + 1)) * kWidePanel;
  for_each_task(cut.tasks(), cut.sums, [&](int64_t task, float* own) {
    const int64_t column = task % cut.passes * cut.pass, row = task / cut.passes * cut.own;
    const Area area = {row, smaller(p.rows - row, cut.own), first + column,
                       smaller(count - column, cut.pass)};
    const Strips strips = {own, kStripRows * chains.depth()};
    for (int64_t b = 0; b < chains.blocks; ++b) {
      pack_block<kStripRows, T>(p.left, row, area.rows, p.depth, chains, b, own, strips.stride);
      product_block<T>(p, area, strips, block_of<kWidePanel>(packed, chains, column, b), group, chains, b,
                       own + cut.own_floats);
    }
  });
}

template <class T>
void product_many_rows(const Product& p, const Chains& chains) {
  const bool left = p.packed || p.rows <= p.columns;
  const int64_t count = left ? p.rows : p.columns, width = left ? kStripRows : kWidePanel;
  const int64_t fitting = larger(16, kSharedFloats / (chains.padded_depth() + 1) / width);
  const int64_t stretch = even_groups(ceil_div(count, width), fitting) * width;
  const Scratch shared(stretch * chains.padded_depth());
  for (int64_t first = 0; first < count; first += stretch) {
    const int64_t rows = smaller(count - first, stretch);
    left ? share_left<T>(p, first, rows, chains, shared.get())
         : share_right<T>(p, first, rows, chains, shared.get());
  }
}

}  // namespace
}  // namespace pyllm::linear
