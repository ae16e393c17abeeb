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
// One row, right operand contiguous along the columns: product_stream.
//
// Few rows, right operand contiguous along k (decoding): few_rows.h.
#include <atomic>

#include "core/parallel.h"
#include "ops/linear/few_rows.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kLeftFloats = int64_t{1} << 22;   // 16 MB of packed left operand at most
constexpr int64_t kRightFloats = int64_t{1} << 17;  // 512 KB of panels
constexpr int64_t kMostColumns = 256;
constexpr int64_t kStreamColumns = 512;  // 2 KB of a row at a time, 32 KB of chains
constexpr int64_t kTasks = 16;           // rows are cut too where columns alone make fewer tasks

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

struct Area {
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

// One block of depth of one tile of out; `tile` says where out is.
template <class T>
void product_tile(const Product& p, const Area& tile, const float* strip, const float* panel,
                  const Chains& chains, int64_t block, float* sums) {
  const bool last = block + 1 == chains.blocks;
  if (last) prefetch_out(p, tile.row, tile.rows, tile.column);
  const bool full = tile.rows == kStripRows && tile.columns == kWidePanel;
  if (full && chains.blocks * chains.count == 1 && p.out_dtype == DType::f32 && !p.bias) {
    // A single chain is a whole sum and goes where it belongs.
    float* out = static_cast<float*>(p.out) + tile.row * p.columns + tile.column;
    return panel_tile(tile.rows, tile.columns, strip, panel, chains, true, out, p.columns);
  }
  panel_tile(tile.rows, tile.columns, strip, panel, chains, block == 0, sums, kWidePanel);
  if (last) finish_tile<T>(p, tile.row, tile.rows, tile.column, tile.columns, sums, kWidePanel);
}

// One task: out[area] from the packed strips, whose first row is the area's.
template <class T>
void product_area(const Product& p, const Area& area, const float* strips, const Chains& chains,
                  float* scratch) {
  alignas(kCacheLine) float tile[kStripRows * kWidePanel];
  const int64_t width = ceil_div(area.columns, kWidePanel) * kWidePanel;
  float* tiles = scratch + width * chains.depth();
  for (int64_t b = 0; b < chains.blocks; ++b) {
    const int64_t k = b * chains.depth(), rest = smaller(p.depth - k, chains.depth());
    for (int64_t n = 0; n < area.columns; n += kWidePanel) {
      pack_chains<kWidePanel>(at<T>(p.right, area.column + n, k), p.right.stride_k, p.right.stride, rest,
                              smaller(area.columns - n, kWidePanel), chains, scratch + n * chains.depth());
    }
    for (int64_t row = 0; row < area.rows; row += kStripRows) {
      const float* strip = strips + row * chains.padded_depth() + k * kStripRows;
      for (int64_t n = 0; n < area.columns; n += kWidePanel) {
        const Area at = {area.row + row, smaller(area.rows - row, kStripRows), area.column + n,
                         smaller(area.columns - n, kWidePanel)};
        float* sums = chains.blocks == 1 ? tile : tiles + row * width + n * kStripRows;
        product_tile<T>(p, at, strip, scratch + n * chains.depth(), chains, b, sums);
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
    const Area area = {first + row, smaller(count - row, block_rows), column,
                       smaller(p.columns - column, columns)};
    product_area<T>(p, area, strips + row * chains.padded_depth(), chains, scratch);
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

// One row, kStreamColumns columns of right from column on: right is read row after row as it lies, and all
// chains of a block are open at once, in the first-level cache.
template <class T>
void product_stream(const Product& p, const float* left, const Chains& chains, int64_t column,
                    float* scratch) {
  const int64_t width = smaller(p.columns - column, kStreamColumns), stride = kStreamColumns;
  float* sums = scratch + chains.count * stride;
  for (int64_t b = 0; b < chains.blocks; ++b) {
    const int64_t first = b * chains.depth(), rest = smaller(p.depth - first, chains.depth());
    for (int64_t i = 0; i < chains.count * stride; ++i) scratch[i] = 0.0f;
    for (int64_t k = 0; k < rest; ++k) {
      const T* from = at<T>(p.right, column, first + k);
      float* chain = scratch + chains.chain_of(k) * stride;
      const Vec x = set1(left[first + k]);
      for_each_vec(width, [&](int64_t n, int64_t lanes) {
        __builtin_prefetch(from + n + kAhead * p.right.stride_k);
        store(chain + n, fma(x, load_lanes(from + n, lanes), load(chain + n)));
      });
    }
    for (int64_t n = 0; n < width; n += kLanes) {
      Vec sum = b == 0 ? load(scratch + n) : load(sums + n) + load(scratch + n);
      for (int64_t j = 1; j < chains.count; ++j) sum = sum + load(scratch + j * stride + n);
      store(sums + n, sum);
    }
  }
  finish_tile<T>(p, 0, 1, column, width, sums, width);
}

template <class T>
void product_one_row(const Product& p, const Chains& chains) {
  const auto left = make_aligned<float>(p.depth);
  for (int64_t k = 0; k < p.depth; ++k) left[k] = to_accumulator(*at<T>(p.left, 0, k));
  const int64_t floats = (chains.count + 1) * kStreamColumns;
  for_each_task(ceil_div(p.columns, kStreamColumns), floats, [&](int64_t task, float* scratch) {
    product_stream<T>(p, left.get(), chains, task * kStreamColumns, scratch);
  });
}

template <class T>
void product_as(const Product& p) {
  const Chains chains = chains_of(p.depth);
  if (p.rows <= kFewRows && p.right.stride_k == 1 && chains.stride > 1) {
    product_few_rows<T>(p, chains);
  } else if (p.rows == 1 && p.right.stride == 1) {
    product_one_row<T>(p, chains);
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
