// Backward, at every vector level. With w the weights, g = dropout(grad_out V^T) and delta as in deltas.h:
//
//   grad_score = w (g - delta)      grad_v += dropout(w)^T grad_out      grad_k += (slope grad_score)^T Q
//   slope = d score / d (q . k)     grad_q += (slope grad_score) K       grad_mask += grad_score
//
//   for each kv head of each sequence:    queries and their gradients once as floats, in tiles of <= 96 rows
//     for each of 4 parts of the keys:    every fourth block of 256
//       for each block of the part:       packed; grad_k, grad_v of the block in floats
//         for each tile that sees it:     backward_tile.h
//       grad_q += the part's
//
// Sums over rows take the tiles, sums over keys a part's blocks and then the parts in order: parts are cut by
// the keys' places alone, so a row of grad_q depends neither on its neighbours nor on who made which part.
// Where there are many pairs of sequence and kv head each is a task; where there are few, their parts are,
// each with a grad_q of its own.
#include <algorithm>

#include "core/levels.h"
#include "ops/attention/backward_tile.h"
#include "ops/attention/deltas.h"
#include "ops/attention/mask_gradients.h"
#include "ops/attention/schedule.h"

namespace pyllm::attention {
namespace {

constexpr int64_t kParts = 4;

// A pair is a task of its own where at least this many as large would fit into the problem: they keep the
// threads busy.
constexpr int64_t kEnoughPairs = 8;

// Floats that the pairs that are cut into parts may take at once: 64 MB.
constexpr int64_t kWaveFloats = int64_t{1} << 24;

// A sequence's rows for one kv head.
struct Pair {
  const Sequence& s;
  int64_t kv_head;
};

Pair pair_at(const Problem& p, int64_t index) { return {p.sequence[index / p.kv_heads], index % p.kv_heads}; }

int64_t block_count(const Sequence& s) { return ceil_div(s.kv_len, kBlock); }

// Tiles lie at whole multiples of the largest one's size.
struct TileSizes {
  explicit TileSizes(const Problem& p)
      : rows(largest_tile(p)), packed(rows_size(p, rows)), grad_q(rows * vector_width(p.head_dim)) {}

  int64_t rows, packed, grad_q;
};

template <class T>
void write_query_gradients(const Backward& b, const Tile& t, const float* sums) {
  const Problem& p = b.problem;
  const Vec scale = set1(static_cast<float>(p.scale));
  for_each_row(t, [&](int64_t row, int64_t head, int64_t query) {
    const float* from = sums + row * vector_width(p.head_dim);
    T* to = query_row<T>(b.grad_q, t.s, head, query);
    for_each_vec(p.head_dim, [&](int64_t d, int64_t lanes) {
      store_lanes(to + d, load_lanes(from + d, lanes) * scale, lanes);
    });
  });
}

template <class T>
void write_key_gradients(const Heads& to, const Pair& pair, const Block& b, int64_t dim, double factor,
                         const float* sums) {
  const Vec scale = set1(static_cast<float>(factor));
  for (int64_t key = 0; key < b.keys; ++key) {
    const float* from = sums + key * vector_width(dim);
    T* row = key_row<T>(to, pair.s, pair.kv_head, b.first + key);
    for_each_vec(dim, [&](int64_t d, int64_t lanes) {
      store_lanes(row + d, load_lanes(from + d, lanes) * scale, lanes);
    });
  }
}

// The memory of a pair whose parts are made one after the other or each by itself.
struct PairMemory {
  float *rows, *grad_q;  // tiles; for grad_q part by part
};

int64_t pair_size(const Problem& p, const Sequence& s, int64_t parts) {
  const TileSizes sizes(p);
  return tile_count(p, s) * (sizes.packed + parts * sizes.grad_q);
}

PairMemory pair_memory(const Problem& p, const Sequence& s, float* memory) {
  return {memory, memory + tile_count(p, s) * TileSizes(p).packed};
}

template <class T>
void load_pair(const Backward& b, const float* delta, const Pair& pair, int64_t first, int64_t last,
               float* rows) {
  const Problem& p = b.problem;
  const TileSizes sizes(p);
  for (int64_t i = first; i < last; ++i) {
    load_rows<T>(b, delta, make_tile(p, pair.s, pair.kv_head, i),
                 rows_at(p, sizes.rows, rows + i * sizes.packed));
  }
}

// The first of a part's blocks that a tile may see, or -1.
int64_t first_block(const Problem& p, const Tile& t, int64_t part) {
  const BlockRange seen = visible_blocks(p, t);
  const int64_t index = seen.first + (part - seen.first % kParts + kParts) % kParts;
  return index < seen.last ? index : -1;
}

// grad_k and grad_v of a part's keys, and its share of grad_q; tiles that see none of them are left as they
// are, but made zero by the first part.
template <class T>
void part_backward(const Backward& b, const Pair& pair, int64_t part, float* packed, const KeyBlock& block,
                   TileSpace& space, float* grad_q) {
  const Problem& p = b.problem;
  const TileSizes sizes(p);
  const int64_t tiles = tile_count(p, pair.s);
  for (int64_t i = 0; i < tiles; ++i) {
    const bool sees = first_block(p, make_tile(p, pair.s, pair.kv_head, i), part) >= 0;
    if (sees || part == 0) zero_fill(grad_q + i * sizes.grad_q, sizes.grad_q);
  }
  for (int64_t index = part; index < block_count(pair.s); index += kParts) {
    const Block keys = make_block(pair.s, index);
    load_block<T>(p, pair.s, pair.kv_head, keys, block);
    for (int64_t i = 0; i < tiles; ++i) {
      const Tile t = make_tile(p, pair.s, pair.kv_head, i);
      if (!view_tile(p, t, keys, space)) continue;
      const Rows rows = rows_at(p, sizes.rows, packed + i * sizes.packed);
      tile_gradients<T>(p, t, rows, keys, block, false, space);
      add_over_rows(space, keys, space.weights, rows.grad_out, block.width, block.grad_v);
      add_over_rows(space, keys, space.grads, rows.q, block.depth, block.grad_k);
      add_over_keys(t, space, keys, block, grad_q + i * sizes.grad_q);
    }
    write_key_gradients<T>(b.grad_k, pair, keys, p.head_dim, p.scale, block.grad_k);
    write_key_gradients<T>(b.grad_v, pair, keys, p.value_dim, 1.0, block.grad_v);
  }
}

// Adds a part's share of a tile's grad_q.
void add_part(const Problem& p, const Tile& t, int64_t part, const float* from, float* to) {
  if (first_block(p, t, part) < 0) return;
  const int64_t size = row_count(t) * vector_width(p.head_dim);
  for (int64_t i = 0; i < size; i += kLanes) store(to + i, load(to + i) + load(from + i));
}

// One pair from beginning to end.
template <class T>
void pair_backward(const Backward& b, const float* delta, const Pair& pair, float* memory,
                   const KeyBlock& block, TileSpace& space) {
  const Problem& p = b.problem;
  const TileSizes sizes(p);
  const int64_t tiles = tile_count(p, pair.s), size = tiles * sizes.grad_q;
  const PairMemory at = pair_memory(p, pair.s, memory);
  load_pair<T>(b, delta, pair, 0, tiles, at.rows);
  part_backward<T>(b, pair, 0, at.rows, block, space, at.grad_q);
  for (int64_t part = 1; part < smaller(kParts, block_count(pair.s)); ++part) {
    float* share = at.grad_q + size;
    part_backward<T>(b, pair, part, at.rows, block, space, share);
    for (int64_t i = 0; i < tiles; ++i) {
      const Tile t = make_tile(p, pair.s, pair.kv_head, i);
      add_part(p, t, part, share + i * sizes.grad_q, at.grad_q + i * sizes.grad_q);
    }
  }
  for (int64_t i = 0; i < tiles; ++i) {
    write_query_gradients<T>(b, make_tile(p, pair.s, pair.kv_head, i), at.grad_q + i * sizes.grad_q);
  }
}

// A pair and its scores, were nothing masked. A type of this file: sorting plain integers would leave weak
// symbols of this level behind (core/levels.h).
struct WeighedPair {
  int64_t index;
  double weight;
};

WeighedPair weigh_pair(const Problem& p, int64_t pair) {
  const Sequence& s = pair_at(p, pair).s;
  return {pair, static_cast<double>(s.q_len) * static_cast<double>(s.kv_len)};
}

// Each pair a task, in the order given.
template <class T>
void run_pairs(const Backward& b, const float* delta, const std::vector<WeighedPair>& pairs) {
  const Problem& p = b.problem;
  int64_t size = 0;
  for (const WeighedPair& n : pairs) size = std::max(size, pair_size(p, pair_at(p, n.index).s, 2));
  run_tasks(static_cast<int64_t>(pairs.size()), [&](const auto& next) {
    const Scratch memory(size);
    const KeyBlock block(p);
    TileSpace space(largest_tile(p));
    for (int64_t i = next(); i >= 0; i = next()) {
      pair_backward<T>(b, delta, pair_at(p, pairs[static_cast<size_t>(i)].index), memory.get(), block, space);
    }
  });
}

// A part, or one tile, of a pair whose memory begins at `offset`.
struct PairTask {
  int64_t pair, offset, index;
};

// Parts of pairs [begin, end) of the list as tasks, between a pass that loads their rows and one that adds
// their parts.
template <class T>
void run_parts(const Backward& b, const float* delta, const std::vector<WeighedPair>& pairs, size_t begin,
               size_t end) {
  const Problem& p = b.problem;
  const TileSizes sizes(p);
  std::vector<PairTask> tiles, parts;
  int64_t size = 0;
  for (size_t n = begin; n < end; ++n) {
    const int64_t pair = pairs[n].index;
    const Sequence& s = pair_at(p, pair).s;
    for (int64_t i = 0; i < tile_count(p, s); ++i) tiles.push_back({pair, size, i});
    for (int64_t i = 0; i < smaller(kParts, block_count(s)); ++i) parts.push_back({pair, size, i});
    size += pair_size(p, s, kParts);
  }
  // Under a causal mask the first parts are the heaviest.
  std::stable_sort(parts.begin(), parts.end(),
                   [](const PairTask& x, const PairTask& y) { return x.index < y.index; });
  const Scratch memory(size);
  const auto memory_of = [&](const PairTask& task, const Pair& pair) {
    return pair_memory(p, pair.s, memory.get() + task.offset);
  };
  run_tasks(static_cast<int64_t>(tiles.size()), [&](const auto& next) {
    for (int64_t n = next(); n >= 0; n = next()) {
      const PairTask& task = tiles[static_cast<size_t>(n)];
      const Pair pair = pair_at(p, task.pair);
      load_pair<T>(b, delta, pair, task.index, task.index + 1, memory_of(task, pair).rows);
    }
  });
  run_tasks(static_cast<int64_t>(parts.size()), [&](const auto& next) {
    const KeyBlock block(p);
    TileSpace space(sizes.rows);
    for (int64_t n = next(); n >= 0; n = next()) {
      const PairTask& task = parts[static_cast<size_t>(n)];
      const Pair pair = pair_at(p, task.pair);
      const PairMemory at = memory_of(task, pair);
      part_backward<T>(b, pair, task.index, at.rows, block, space,
                       at.grad_q + task.index * tile_count(p, pair.s) * sizes.grad_q);
    }
  });
  run_tasks(static_cast<int64_t>(tiles.size()), [&](const auto& next) {
    for (int64_t n = next(); n >= 0; n = next()) {
      const PairTask& task = tiles[static_cast<size_t>(n)];
      const Pair pair = pair_at(p, task.pair);
      float* sums = memory_of(task, pair).grad_q + task.index * sizes.grad_q;
      const int64_t part_size = tile_count(p, pair.s) * sizes.grad_q, count = block_count(pair.s);
      if (count == 0) zero_fill(sums, sizes.grad_q);
      const Tile t = make_tile(p, pair.s, pair.kv_head, task.index);
      for (int64_t i = 1; i < smaller(kParts, count); ++i) add_part(p, t, i, sums + i * part_size, sums);
      write_query_gradients<T>(b, t, sums);
    }
  });
}

template <class T>
void run_schedule(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  double all = 0;
  for (int64_t n = 0; n < p.sequences * p.kv_heads; ++n) all += weigh_pair(p, n).weight;
  std::vector<WeighedPair> whole, cut;
  for (int64_t n = 0; n < p.sequences * p.kv_heads; ++n) {
    const WeighedPair pair = weigh_pair(p, n);
    (pair.weight * kEnoughPairs <= all ? whole : cut).push_back(pair);
  }
  for (size_t begin = 0, end = 0; begin < cut.size(); begin = end) {
    int64_t floats = 0;
    for (; end < cut.size(); ++end) {
      floats += pair_size(p, pair_at(p, cut[end].index).s, kParts);
      if (end > begin && floats > kWaveFloats) break;
    }
    run_parts<T>(b, delta, cut, begin, end);
  }
  std::stable_sort(whole.begin(), whole.end(),
                   [](const WeighedPair& x, const WeighedPair& y) { return x.weight > y.weight; });
  if (!whole.empty()) run_pairs<T>(b, delta, whole);
}

template <class T>
void backward_as(const Backward& b) {
  const auto delta = make_aligned<float>(lse_size(b.problem));
  row_deltas<T>(b, delta.get());
  if (b.grad_sink) sink_gradients(b, delta.get());
  if (b.grad_mask) mask_gradients<T>(b, delta.get());
  run_schedule<T>(b, delta.get());
}

void run_backward(const Backward& b) {
  if (b.problem.dtype == DType::f32) backward_as<float>(b);
  if (b.problem.dtype == DType::bf16) backward_as<bfloat16>(b);
  if (b.problem.dtype == DType::f16) backward_as<float16>(b);
}

}  // namespace

extern const BackwardKernels PYLLM_LEVEL_TABLE(backward_kernels);
const BackwardKernels PYLLM_LEVEL_TABLE(backward_kernels) = {run_backward};

}  // namespace pyllm::attention
