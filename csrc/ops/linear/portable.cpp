// Two paths, one arithmetic (gemm.h: blocks of kDepth k's, each one chain of fused multiply-adds).
//
// Many rows. The left operand is packed once per call into strips shared by all threads; a task owns a block
// of columns and packs one depth block of the right operand at a time:
//
//   for rows in stretches whose packed left fits kLeftFloats    serial, usually one
//     pack left into strips of kRows                            parallel over strips
//     for tasks = column blocks x row blocks                    parallel
//       for k0 in blocks of kDepth
//         pack right into panels                                kDepth x kColumns floats: second-level cache
//         for strip, for panel: a register tile                 strip: first-level cache
//       out = sums + bias, rounded once
//
// Weights are never kept packed: transposing them in registers costs about 0.3 cycles an element, a product
// with M rows M / 32 cycles on two AVX-512 units. Wide column blocks matter: strips come from memory once per
// block; with 64 columns in place of 256 it was 13% slower beside MKL (2048 tokens, 576 -> 1536).
//
// Few rows (decoding). Memory sets the speed: the right operand is read once, in place, a block of kLanes
// columns x kLanes k's is transposed in registers and used at once; the lanes are columns, so each keeps its
// own chain over k.
#include "core/aligned.h"
#include "core/gemm.h"
#include "core/levels.h"
#include "core/parallel.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kColumns = 256;  // a task's columns: a whole number of panels at every level
constexpr int64_t kLeftFloats = int64_t{1} << 22;  // 16 MB of packed left operand at most
constexpr int64_t kTasks = 16;                     // rows are cut too where columns alone make fewer tasks
constexpr int64_t kFewRows = 4;
static_assert(kColumns % kPanel == 0);

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
const T* at(const Operand& operand, int64_t i, int64_t k) {
  return static_cast<const T*>(operand.data) + i * operand.stride + k * operand.stride_k;
}

// out[row, column ...) = sum + bias
template <class T>
void finish(const Product& p, int64_t row, int64_t column, Vec sum, int64_t lanes) {
  if (p.bias) sum = sum + load_lanes(static_cast<const T*>(p.bias) + column, lanes);
  const int64_t at = row * p.columns + column;
  if (p.out_dtype == DType::f32) {
    store_lanes(static_cast<float*>(p.out) + at, sum, lanes);
  } else {
    store_lanes(static_cast<T*>(p.out) + at, sum, lanes);
  }
}

struct Block {
  int64_t row, rows, column, columns;
};

// One task: out[block] from the packed strips, whose first row is the block's.
template <class T>
void product_block(const Product& p, const Block& block, const float* strips, float* panel_space,
                   float* sums) {
  for (int64_t k0 = 0; k0 < p.depth || k0 == 0; k0 += kDepth) {
    const int64_t depth = smaller(p.depth - k0, kDepth);
    pack_panels(at<T>(p.right, block.column, k0), p.right.stride_k, p.right.stride, depth, block.columns,
                panel_space);
    for (int64_t row = 0; row < block.rows; row += kRows) {
      const Strip left{strips + row * p.depth + k0 * kRows};
      const int64_t rows = smaller(block.rows - row, kRows);
      for (int64_t column = 0; column < block.columns; column += kPanel) {
        gemm_tiles<kRows>(left, panel_space + column * depth, sums + row * kColumns + column, kColumns, rows,
                          depth, kPanel, k0 > 0);
      }
    }
  }
  for (int64_t row = 0; row < block.rows; ++row) {
    for_each_vec(block.columns, [&](int64_t i, int64_t lanes) {
      finish<T>(p, block.row + row, block.column + i, load_lanes(sums + row * kColumns + i, lanes), lanes);
    });
  }
}

// Packs rows [first, first + count) of left into strips.
template <class T>
void pack_left(const Product& p, int64_t first, int64_t count, float* strips) {
  parallel_for(0, ceil_div(count, kRows), 4, [&](int64_t begin, int64_t end) {
    // 64 k's of all strips at a time: where left is read transposed, its 64 rows of memory stay in the
    // address cache.
    for (int64_t k = 0; k < p.depth; k += 64) {
      for (int64_t row = begin * kRows; row < smaller(end * kRows, count); row += kRows) {
        pack_panel<kRows>(at<T>(p.left, first + row, k), p.left.stride_k, p.left.stride,
                          smaller(p.depth - k, 64), smaller(count - row, kRows),
                          strips + row * p.depth + k * kRows);
      }
    }
  });
}

// Rows [first, first + count) of out; `strips` has room for them packed.
template <class T>
void product_stretch(const Product& p, int64_t first, int64_t count, float* strips) {
  pack_left<T>(p, first, count, strips);
  const int64_t strip_count = ceil_div(count, kRows);
  const int64_t column_blocks = ceil_div(p.columns, kColumns);
  const int64_t wanted = smaller(ceil_div(kTasks, column_blocks), ceil_div(strip_count, 8));
  const int64_t block_rows = ceil_div(strip_count, wanted) * kRows;
  const int64_t row_blocks = ceil_div(count, block_rows);
  parallel_for(0, column_blocks * row_blocks, 1, [&](int64_t begin, int64_t end) {
    const auto panel_space = make_aligned<float>(kDepth * kColumns);
    const auto sums = make_aligned<float>(smaller(block_rows, count) * kColumns);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task % row_blocks * block_rows, column = task / row_blocks * kColumns;
      const Block block = {first + row, smaller(count - row, block_rows), column,
                           smaller(p.columns - column, kColumns)};
      product_block<T>(p, block, strips + row * p.depth, panel_space.get(), sums.get());
    }
  });
}

template <class T>
void product_many_rows(const Product& p) {
  const int64_t fitting = kLeftFloats / (p.depth + 1) / kRows * kRows;
  const int64_t least = 16 * kRows;
  const int64_t stretch = smaller(fitting < least ? least : fitting, ceil_div(p.rows, kRows) * kRows);
  const auto strips = make_aligned<float>(stretch * p.depth);
  for (int64_t row = 0; row < p.rows; row += stretch) {
    product_stretch<T>(p, row, smaller(p.rows - row, stretch), strips.get());
  }
}

// kLanes columns (the first `lanes` of them real) for Rows rows of left, given as floats.
template <int Rows, class T>
void product_lanes(const Product& p, const float* left, int64_t column, int64_t lanes) {
  Vec sums[Rows] = {};
  for (int64_t k0 = 0; k0 < p.depth; k0 += kDepth) {
    const int64_t end = smaller(p.depth, k0 + kDepth);
    Vec chain[Rows] = {};
    for (int64_t k = k0; k < end; k += kLanes) {
      const int64_t depth = smaller(end - k, kLanes);
      Vec block[kLanes];
      // The hardware follows sixteen rows badly: the same place in the next group of rows is asked for now.
      for (int64_t n = 0; n < kLanes; ++n) __builtin_prefetch(at<T>(p.right, column + kLanes + n, k));
      load_transposed(at<T>(p.right, column, k), p.right.stride, lanes, depth, block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i == depth) break;
        for (int r = 0; r < Rows; ++r) chain[r] = fma(set1(left[r * p.depth + k + i]), block[i], chain[r]);
      }
    }
    for (int r = 0; r < Rows; ++r) sums[r] = k0 == 0 ? chain[r] : sums[r] + chain[r];
  }
  for (int r = 0; r < Rows; ++r) finish<T>(p, r, column, sums[r], lanes);
}

template <int Rows, class T>
void product_few_rows(const Product& p) {
  if (p.rows < Rows) {
    if constexpr (Rows > 1) product_few_rows<Rows - 1, T>(p);
    return;
  }
  const auto left = make_aligned<float>(Rows * p.depth);
  for (int64_t row = 0; row < Rows; ++row) {
    for (int64_t k = 0; k < p.depth; ++k) left[row * p.depth + k] = to_accumulator(*at<T>(p.left, row, k));
  }
  const int64_t grain = 1 + (1 << 14) / (p.depth + 1) / kLanes;  // 16384 elements of right pay for a fork
  parallel_for(0, ceil_div(p.columns, kLanes), grain, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t column = group * kLanes;
      product_lanes<Rows, T>(p, left.get(), column, smaller(p.columns - column, kLanes));
    }
  });
}

template <class T>
void product_as(const Product& p) {
  if (p.rows <= kFewRows && p.right.stride_k == 1) {
    product_few_rows<kFewRows, T>(p);
  } else {
    product_many_rows<T>(p);
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
