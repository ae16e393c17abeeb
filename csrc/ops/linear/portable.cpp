// Three paths, one arithmetic (core/chains.h).
//
// Many rows: both operands are packed chain after chain. The left one once per call, shared by all threads; a
// task owns a block of columns and packs one block of the right operand's depth at a time:
//
//   for rows in stretches whose packed left fits kLeftFloats    serial, usually one
//     pack left into strips of kStripRows                            parallel over strips
//     for tasks = column blocks x row blocks                    parallel, whoever is free takes the next
//       for block of depth
//         pack right into panels                                kRightFloats: second-level cache
//         for strip, for panel: a register tile                 its sums: first-level cache
//       out = sums + bias, rounded once                         after the last block, tile by tile
//
// Few rows, right operand contiguous along the columns (grad_x): the same tiles, as wide as the registers
// allow, read the right operand where it lies.
//
// Few rows, right operand contiguous along k (decoding): see few_rows.h.
#include <atomic>

#include "core/parallel.h"
#include "ops/linear/few_rows.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kLeftFloats = int64_t{1} << 22;   // 16 MB of packed left operand at most
constexpr int64_t kRightFloats = int64_t{1} << 17;  // 512 KB of panels
constexpr int64_t kMostColumns = 256;
constexpr int64_t kTasks = 16;  // rows are cut too where columns alone make fewer tasks

// Calls f(task, scratch of `floats`) for all tasks: a free thread takes the next, so that one the system
// holds up delays no other.
template <class F>
void for_each_task(int64_t tasks, int64_t floats, const F& f) {
  std::atomic<int64_t> next{0};
  parallel_for(0, tasks, 1, [&](int64_t, int64_t) {
    int64_t task = next++;
    if (task >= tasks) return;
    const auto scratch = make_aligned<float>(floats);
    for (; task < tasks; task = next++) f(task, scratch.get());
  });
}

struct Block {
  int64_t row, rows, column, columns;
};

// Scratch of a task: panels, and tiles of sums if there is more than one block of depth.
int64_t scratch_size(const Chains& chains, int64_t rows, int64_t columns) {
  const int64_t width = ceil_div(columns, kWidePanel) * kWidePanel;
  return width * (chains.depth() + (chains.blocks > 1 ? ceil_div(rows, kStripRows) * kStripRows : 0));
}

// Where a tile of out will be written soon.
void prefetch_out(const Product& p, int64_t row, int64_t rows, int64_t column) {
  const int64_t size = size_of(p.out_dtype), width = smaller(p.columns - column, kWidePanel) * size;
  char* to = static_cast<char*>(p.out) + (row * p.columns + column) * size;
  for (int64_t r = 0; r < rows; ++r, to += p.columns * size) {
    for (int64_t i = 0; i < width; i += kCacheLine) __builtin_prefetch(to + i, 1);
  }
}

// One task: out[block] from the packed strips, whose first row is the block's.
template <class T>
void product_block(const Product& p, const Block& block, const float* strips, const Chains& chains,
                   float* scratch) {
  alignas(kCacheLine) float tile[kStripRows * kWidePanel];
  const int64_t width = ceil_div(block.columns, kWidePanel) * kWidePanel;
  float* tiles = scratch + width * chains.depth();
  for (int64_t b = 0; b < chains.blocks; ++b) {
    const int64_t k = b * chains.depth(), rest = smaller(p.depth - k, chains.depth());
    for (int64_t n = 0; n < block.columns; n += kWidePanel) {
      pack_chains<kWidePanel>(at<T>(p.right, block.column + n, k), p.right.stride_k, p.right.stride, rest,
                              smaller(block.columns - n, kWidePanel), chains, scratch + n * chains.depth());
    }
    const bool last = b + 1 == chains.blocks;
    for (int64_t row = 0; row < block.rows; row += kStripRows) {
      const float* strip = strips + row * chains.padded_depth() + k * kStripRows;
      for (int64_t n = 0; n < block.columns; n += kWidePanel) {
        float* sums = chains.blocks == 1 ? tile : tiles + row * width + n * kStripRows;
        const int64_t rows = smaller(block.rows - row, kStripRows);
        const int64_t columns = smaller(block.columns - n, kWidePanel);
        if (last) prefetch_out(p, block.row + row, rows, block.column + n);
        panel_tile(rows, columns, strip, scratch + n * chains.depth(), chains, b == 0, sums, kWidePanel);
        if (last) finish_tile<T>(p, block.row + row, rows, block.column + n, columns, sums, kWidePanel);
      }
    }
  }
}

// Packs rows [first, first + count) of left into strips.
template <class T>
void pack_left(const Product& p, int64_t first, int64_t count, const Chains& chains, float* strips) {
  // Where left is read transposed, the rows of a slice stay in the address cache.
  const int64_t slice_depth = p.left.stride_k == 1 ? chains.depth() + 1 : 64;
  parallel_for(0, ceil_div(count, kStripRows), 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = 0; b < chains.blocks; ++b) {
      const int64_t k = b * chains.depth(), rest = smaller(p.depth - k, chains.depth());
      for (int64_t slice = 0; slice < rest || slice == 0; slice += slice_depth) {
        for (int64_t row = begin * kStripRows; row < smaller(end * kStripRows, count); row += kStripRows) {
          float* strip = strips + row * chains.padded_depth() + k * kStripRows;
          if (slice == 0) zero_missing<kStripRows>(rest, chains, strip);
          pack_panel<kStripRows>(at<T>(p.left, first + row, k + slice), p.left.stride_k, p.left.stride,
                                 smaller(rest - slice, slice_depth), smaller(count - row, kStripRows),
                                 strip + chains(slice) * kStripRows, chains);
        }
      }
    }
  });
}

// Rows [first, first + count) of out; `strips` has room for them packed.
template <class T>
void product_stretch(const Product& p, int64_t first, int64_t count, const Chains& chains, float* strips) {
  pack_left<T>(p, first, count, chains, strips);
  const int64_t fitting = kRightFloats / (chains.depth() + 1) / kWidePanel * kWidePanel;
  const int64_t columns =
      fitting < 2 * kWidePanel ? 2 * kWidePanel : smaller(fitting, kMostColumns / kWidePanel * kWidePanel);
  const int64_t strip_count = ceil_div(count, kStripRows);
  const int64_t column_blocks = ceil_div(p.columns, columns);
  const int64_t wanted = smaller(ceil_div(kTasks, column_blocks), ceil_div(strip_count, 8));
  const int64_t block_rows = ceil_div(strip_count, wanted) * kStripRows;
  const int64_t row_blocks = ceil_div(count, block_rows);
  const int64_t floats = scratch_size(chains, smaller(block_rows, count), columns);
  for_each_task(column_blocks * row_blocks, floats, [&](int64_t task, float* scratch) {
    const int64_t row = task % row_blocks * block_rows, column = task / row_blocks * columns;
    const Block block = {first + row, smaller(count - row, block_rows), column,
                         smaller(p.columns - column, columns)};
    product_block<T>(p, block, strips + row * chains.padded_depth(), chains, scratch);
  });
}

template <class T>
void product_many_rows(const Product& p, const Chains& chains) {
  const int64_t fitting = kLeftFloats / (chains.padded_depth() + 1) / kStripRows * kStripRows;
  const int64_t least = 16 * kStripRows;
  const int64_t stretch =
      smaller(fitting < least ? least : fitting, ceil_div(p.rows, kStripRows) * kStripRows);
  const auto strips = make_aligned<float>(stretch * chains.padded_depth());
  for (int64_t row = 0; row < p.rows; row += stretch) {
    product_stretch<T>(p, row, smaller(p.rows - row, stretch), chains, strips.get());
  }
}

// Rows x Vecs vectors of out, the right operand read in place.
template <int Rows, int Vecs, class T>
void product_in_place(const Product& p, const float* strip, const Chains& chains, int64_t column) {
  alignas(kCacheLine) float sums[Rows * Vecs * kLanes];
  const int64_t row = p.right.stride_k, chain = chains.stride == 1 ? chains.length * row : row;
  for (int64_t b = 0; b < chains.blocks; ++b) {
    const int64_t k = b * chains.depth();
    const ChainRows<T> right = {at<T>(p.right, column, k), chain, chains.stride * row, p.depth - k};
    chain_tile<Rows, Vecs>(strip + k * kStripRows, right, chains, b == 0, sums, Vecs * kLanes);
  }
  finish_tile<T>(p, 0, p.rows, column, Vecs * kLanes, sums, Vecs * kLanes);
}

// At most kStripRows rows: whole tiles of columns in place, the rest packed.
template <int Rows = kStripRows, class T>
void product_wide_tiles(const Product& p, const Chains& chains) {
  if constexpr (Rows > 1) {
    constexpr int kNext = next_rows(Rows);
    if (p.rows <= kNext) return product_wide_tiles<kNext, T>(p, chains);
  }
  constexpr int kFitting = kHalfStrip * kTileVecs / (Rows < kHalfStrip ? Rows : kHalfStrip);
  constexpr int kVecs = kFitting < 8 ? kFitting : 8;
  constexpr int64_t kWidth = kVecs * kLanes;
  const auto strip = make_aligned<float>(kStripRows * chains.padded_depth());
  pack_left<T>(p, 0, p.rows, chains, strip.get());
  const int64_t tiles = p.columns / kWidth, edge = tiles * kWidth;
  const int64_t floats = scratch_size(chains, p.rows, p.columns - edge);
  for_each_task(tiles + (edge < p.columns), floats, [&](int64_t task, float* scratch) {
    if (task < tiles) return product_in_place<Rows, kVecs, T>(p, strip.get(), chains, task * kWidth);
    product_block<T>(p, {0, p.rows, edge, p.columns - edge}, strip.get(), chains, scratch);
  });
}

template <class T>
void product_as(const Product& p) {
  const Chains chains = chains_of(p.depth);
  if (p.rows <= kFewRows && p.right.stride_k == 1 && chains.stride > 1) {
    product_few_rows<T>(p, chains);
  } else if (p.rows <= kStripRows && p.right.stride == 1 && p.depth > 0) {
    product_wide_tiles<kStripRows, T>(p, chains);
  } else {
    product_many_rows<T>(p, chains);
  }
}

void run_product(const Product& p) {
  if (p.rows == 0 || p.columns == 0) return;
  if (p.dtype == DType::f32) product_as<float>(p);
  if (p.dtype == DType::bf16) product_as<bfloat16>(p);
  if (p.dtype == DType::f16) product_as<float16>(p);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_product};

}  // namespace pyllm::linear
