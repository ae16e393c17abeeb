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
// A block's result never depends on the blocks before it, so tasks may have any part of them (schedule.h).
//
// Keys and values, by where they are (block_source.h):
//   pages, few rows     read in place, pairs widened in the product: a decoding step reads its cache once
//   pages, more rows    pairs are widened into a block of float panels per tile and block: 4% of its products
//   tensors             packed into float panels: for several tiles beforehand, a wave of kv heads at a time,
//                       otherwise where they are used
#include "core/levels.h"
#include "core/scratch.h"
#include "ops/attention/block_source.h"
#include "ops/attention/schedule.h"
#include "ops/attention/softmax_block.h"

namespace pyllm::attention {
namespace {

// Floats of packed keys and values a wave may have: 16 MB stay in the last-level cache, and in the scratch
// that threads keep.
constexpr int64_t kWaveFloats = int64_t{1} << 22;

// Pairs (sequence, kv head) [begin, end), with their packed blocks if they have any.
struct Wave {
  int64_t begin, end;
  const float* packed;

  bool is_packed(const Problem& p, const Sequence& s) const { return packed && tile_count(p, s) > 1; }
};

int64_t block_count(const Problem& p, int64_t pair) {
  return ceil_div(p.sequence[pair / p.kv_heads].kv_len, kBlock);
}

// Blocks of the wave's pairs before this one. A sequence's blocks lie together, kv head by kv head.
int64_t blocks_before(const Problem& p, const Wave& w, int64_t pair) {
  const auto before = [&](int64_t n) {
    const Sequence& s = p.sequence[n / p.kv_heads];
    return s.blocks_before * p.kv_heads + n % p.kv_heads * ceil_div(s.kv_len, kBlock);
  };
  return before(pair) - before(w.begin);
}

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

template <class T, class Packed>
void attend_block(const Problem& p, const Tile& t, const Block& b, const BlockView<Packed>& view,
                  const Workspace& space, const Sums& into) {
  const int64_t rows = row_count(t);
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t count = smaller(kRows, rows - row);
    const Columns c = strip_columns(p, t, row, count, b);
    if (c.last == 0) continue;
    const float* queries = space.queries + row / kRows * query_strip_size(p);
    attend_strip<T>(p, t, row, count, queries, b, view, c, space.strip, into);
  }
}

// Joins block `index` to the sums of a tile whose queries are loaded.
template <class T>
void attend(const Problem& p, const Wave& w, const Tile& t, int64_t index, const Workspace& space,
            const Sums& into) {
  const Block b = make_block(t.s, index);
  if (visible_columns(p, t, b).last == 0) return;
  if (p.pages.data && (!kPaired<T> || row_count(t) <= kRows)) {
    attend_block<T>(p, t, b, view_cache<T>(p, t.s, t.kv_head, b), space, into);
    return;
  }
  const float* block = space.block;
  if (w.is_packed(p, t.s)) {
    const int64_t pair = (&t.s - p.sequence) * p.kv_heads + t.kv_head;
    block = w.packed + (blocks_before(p, w, pair) + index) * float_block(p).elements();
  } else if (!p.pages.data) {
    pack_block<T>(p, t.s, t.kv_head, b, space.block);
  } else if constexpr (kPaired<T>) {
    unpack_block(p, view_cache<T>(p, t.s, t.kv_head, b), b, space.block);
  }
  attend_block<T>(p, t, b, view_floats(p, b, block), space, into);
}

// Sums of the blocks of tiles that several tasks share, and how many of these tasks are done.
struct Kept {
  Kept(const Problem& p, const Schedule& s, int64_t rows)
      : block_size(sums_size(p, rows)), sums(s.kept * block_size), done(s.splits.size()) {}

  float* block(const Split& split, int64_t index) const {
    return sums.get() + (split.kept + index - split.first) * block_size;
  }

  int64_t block_size;
  Scratch sums;
  std::vector<std::atomic<int64_t>> done;
};

template <class T>
void run_task(const Forward& f, const Wave& w, const Task& task, const Schedule& schedule, Kept& kept,
              const Workspace& space) {
  const Problem& p = f.problem;
  const Tile t = make_tile(p, p.sequence[task.sequence], task.kv_head, task.tile);
  const int64_t rows = row_count(t);
  const Sums total = sums_at(p, space.total, rows);
  load_queries<T>(p, t, space.queries);
  clear(total, rows);
  if (task.split < 0) {
    for (int64_t i = task.first; i < task.last; ++i) attend<T>(p, w, t, i, space, total);
    finish<T>(f, t, total);
    return;
  }
  const Split& split = schedule.splits[static_cast<size_t>(task.split)];
  for (int64_t i = task.first; i < task.last; ++i) {
    const Sums block = sums_at(p, kept.block(split, i), rows);
    clear(block, rows);
    attend<T>(p, w, t, i, space, block);
  }
  auto& done = kept.done[static_cast<size_t>(task.split)];
  if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < split.parts) return;
  for (int64_t i = split.first; i < split.last; ++i) {
    merge(sums_at(p, kept.block(split, i), rows), total, rows);
  }
  finish<T>(f, t, total);
}

template <class T>
void pack_wave(const Problem& p, const Wave& w, float* packed) {
  const int64_t size = float_block(p).elements();
  parallel_for(w.begin, w.end, 1, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const Sequence& s = p.sequence[pair / p.kv_heads];
      if (!w.is_packed(p, s)) continue;
      for (int64_t i = 0; i < block_count(p, pair); ++i) {
        pack_block<T>(p, s, pair % p.kv_heads, make_block(s, i),
                      packed + (blocks_before(p, w, pair) + i) * size);
      }
    }
  });
}

template <class T>
void run_wave(const Forward& f, const Wave& w) {
  const Problem& p = f.problem;
  const Schedule schedule = make_schedule(p, w.begin, w.end);
  const int64_t rows = largest_tile(p);
  Kept kept(p, schedule, rows);
  run_tasks(static_cast<int64_t>(schedule.tasks.size()), [&](const auto& next) {
    const Workspace space(p, rows);
    for (int64_t i = next(); i >= 0; i = next()) {
      run_task<T>(f, w, schedule.tasks[static_cast<size_t>(i)], schedule, kept, space);
    }
  });
}

bool has_long_sequence(const Problem& p) {
  for (int64_t i = 0; i < p.sequences; ++i) {
    if (tile_count(p, p.sequence[i]) > 1) return true;
  }
  return false;
}

template <class T>
void forward_as(const Forward& f) {
  const Problem& p = f.problem;
  const int64_t pairs = p.sequences * p.kv_heads;
  if (p.pages.data || !has_long_sequence(p)) {
    run_wave<T>(f, {0, pairs, nullptr});
    return;
  }
  const int64_t size = float_block(p).elements();
  for (Wave w = {0, 0, nullptr}; w.begin < pairs; w.begin = w.end) {
    int64_t floats = 0;
    for (w.end = w.begin; w.end < pairs; ++w.end) {
      const int64_t more = block_count(p, w.end) * size;
      if (w.end > w.begin && floats + more > kWaveFloats) break;
      floats += more;
    }
    const Scratch packed(floats);
    w.packed = packed.get();
    pack_wave<T>(p, w, packed.get());
    run_wave<T>(f, w);
  }
}

void run_forward(const Forward& f) {
  if (f.problem.dtype == DType::f32) forward_as<float>(f);
  if (f.problem.dtype == DType::bf16) forward_as<bfloat16>(f);
  if (f.problem.dtype == DType::f16) forward_as<float16>(f);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward};

}  // namespace pyllm::attention
