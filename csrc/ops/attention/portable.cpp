// Forward, at every vector level.
//
//   for each task: a tile of <= 96 rows (queries x the heads that share a kv head) against blocks of 256 keys
//     for each block the tile can see, left to right:                       keys, values: second-level cache
//       for each strip of 12 rows (6 with 16 registers):                    scores: first-level cache
//         scores  = rows . K^T        columns cut to what the strip's intervals touch
//         weights = 2^(scores - m)    m = ceil(row maximum): an integer
//         sums    = weights . V
//         (m, l, sums) of the rows <- merged with the block's
//
// A block's result never depends on the blocks before it, so tasks may have any part of them
// (forward_tasks.h, schedule.h).
//
// Keys and values, by where they are (block_source.h):
//   pages, few rows     read in place, pairs widened in the product: a decoding step reads its cache once
//   pages of codes      become a block of float panels (quantized_block.h), for few rows too: a quarter or an
//                       eighth of the bytes come from memory
//   pages, more rows    pairs are widened into a block of float panels per tile and block: 4% of its products
//   tensors, one strip  read in place (row_products.h)
//   tensors, more rows  packed into float panels: for several tiles beforehand, a wave of kv heads at a time,
//                       otherwise where they are used
#include "core/levels.h"
#include "ops/attention/block_source.h"
#include "ops/attention/forward_tasks.h"
#include "ops/attention/quantized_block.h"
#include "ops/attention/softmax_block.h"

namespace pyllm::attention {
namespace {

// Everything a thread needs beside its task.
struct Workspace {
  Workspace(const Problem& p, int64_t rows)
      : memory(ceil_div(rows, kRows) * query_strip_size(p) + kRows * kScoreStride + sums_size(p, kRows) +
               sums_size(p, rows) + float_block(p).elements()),
        queries(memory.get()),
        strip{queries + ceil_div(rows, kRows) * query_strip_size(p), nullptr} {
    strip.sums = strip.scores + kRows * kScoreStride;
    total = strip.sums + sums_size(p, kRows);
    block = total + sums_size(p, rows);
  }

  Scratch memory;
  float* queries;
  StripSpace strip;
  float *total, *block;
};

// A tile's rows in strips (block_products.h).
template <class T>
void load_queries(const Problem& p, const Tile& t, float* queries) {
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    const T* from = query_row<const T>(p.q, t.s, head, query);
    float* to = queries + row / kRows * query_strip_size(p) + row % kRows * kDotDepth;
    for (int64_t d = 0; d < ceil_div(p.head_dim, kDotDepth) * kDotDepth; d += kLanes) {
      const Vec x = load_lanes(from + d, clamp(p.head_dim - d, 0, kLanes));
      store(to + d / kDotDepth * kRows * kDotDepth + d % kDotDepth, x);
    }
  });
}

template <class T, class View>
void attend_block(const Problem& p, const Tile& t, const Block& b, const View& view, const Workspace& space,
                  const Sums& into) {
  const int64_t rows = row_count(t);
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t count = smaller(kRows, rows - row);
    const Columns c = strip_columns(p, t, row, count, b);
    if (c.last == 0) continue;
    const float* queries = space.queries + row / kRows * query_strip_size(p);
    attend_strip<T>(p, t, row, count, queries, b, view, c, space.strip, into);
  }
}

template <class T>
struct VectorForward {
  using Type = T;
  using Workspace = attention::Workspace;

  static int64_t packed_floats(const Problem& p) { return float_block(p).elements(); }

  static void pack(const Problem& p, const Sequence& s, int64_t kv_head, const Block& b, float* to) {
    pack_block<T>(p, s, kv_head, b, to);
  }

  static void load(const Problem& p, const Tile& t, const Workspace& space) {
    load_queries<T>(p, t, space.queries);
  }

  static void attend(const Problem& p, const Tile& t, const Block& b, const float* packed,
                     const Workspace& space, const Sums& into) {
    if (p.pages.code != KvCode::none) {
      dequantize_block(p, t.s, t.kv_head, b, space.block);
      attend_block<T>(p, t, b, view_floats(p, b, space.block), space, into);
      return;
    }
    if (p.pages.data && (!kPaired<T> || row_count(t) <= kRows)) {
      attend_block<T>(p, t, b, view_cache<T>(p, t.s, t.kv_head, b), space, into);
      return;
    }
    if (!packed && !p.pages.data && row_count(t) <= kRows) {
      attend_block<T>(p, t, b, view_rows<T>(p, t.s, t.kv_head, b), space, into);
      return;
    }
    if (!packed && !p.pages.data) pack_block<T>(p, t.s, t.kv_head, b, space.block);
    if constexpr (kPaired<T>) {
      if (p.pages.data) unpack_block(p, view_cache<T>(p, t.s, t.kv_head, b), b, space.block);
    }
    attend_block<T>(p, t, b, view_floats(p, b, packed ? packed : space.block), space, into);
  }
};

void run_forward(const Forward& f) {
  if (f.problem.dtype == DType::f32) run_forward_at<VectorForward<float>>(f);
  if (f.problem.dtype == DType::bf16) run_forward_at<VectorForward<bfloat16>>(f);
  if (f.problem.dtype == DType::f16) run_forward_at<VectorForward<float16>>(f);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward};

}  // namespace pyllm::attention
