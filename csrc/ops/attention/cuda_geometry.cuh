// Which rows, keys and tiles a block of the CUDA kernels works on. The query heads that share a kv head are
// folded into rows: row = query * group + head in group, so that keys and values are read once for all of
// them.
#pragma once

#include "core/gpu.h"
#include "ops/attention/cuda.h"

namespace pyllm::attention {

GPU_FN int64_t at(const Integers& x, int64_t i) {
  return x.wide ? static_cast<const int64_t*>(x.data)[i] : static_cast<const int32_t*>(x.data)[i];
}

// One row of a padded batch, or one sequence of a packed one, and a stretch of its rows.
struct Work {
  int64_t batch, first_query, first_key;
  int q_len, kv_len, prefix;
  int first_row;
};

// First and number of tokens of sequence i between its borders, inside [0, tokens].
struct Tokens {
  int64_t first, count;
};
GPU_FN Tokens between(const Integers& borders, int64_t i, int64_t tokens) {
  const int64_t first = clamp(at(borders, i), 0, tokens), last = clamp(at(borders, i + 1), first, tokens);
  return {first, last - first};
}

GPU_FN int64_t tiles_of(const CudaForward& f, int64_t q_len, int rows) {
  return (q_len * (f.heads / f.kv_heads) + rows - 1) / rows;
}

// The work of tile `tile`, counted through all sequences, of `rows` rows each; false past the last. Within a
// sequence the last tile comes first: under a causal mask it takes longest.
GPU_FN bool find_work(const CudaForward& f, int64_t tile, int rows, Work& work) {
  int64_t sequence = 0, tiles = tiles_of(f, f.q_len, rows);
  Tokens queries = {0, f.q_len}, keys = {0, f.kv_len};
  if (f.q_borders.data) {
    for (;; ++sequence, tile -= tiles) {
      if (sequence == f.sequences) return false;
      queries = between(f.q_borders, sequence, f.q_len);
      tiles = tiles_of(f, queries.count, rows);
      if (tile < tiles) break;
    }
    keys = between(f.k_borders, sequence, f.kv_len);
  } else {
    sequence = tile / tiles;
    tile %= tiles;
    if (f.kv_lengths.data) keys.count = clamp(at(f.kv_lengths, sequence), 0, f.kv_len);
  }
  work.batch = f.q_borders.data ? 0 : sequence;
  work.first_query = queries.first;
  work.first_key = keys.first;
  work.q_len = static_cast<int>(queries.count);
  work.kv_len = static_cast<int>(keys.count);
  work.prefix = f.prefix.data ? static_cast<int>(clamp(at(f.prefix, sequence), 0, f.kv_len)) : 0;
  work.first_row = static_cast<int>(tiles - 1 - tile) * rows;
  return true;
}

GPU_FN Visible visible(const CudaForward& f, const Work& work, int query) {
  return visible_keys(f.intervals, query + work.kv_len - work.q_len, work.kv_len, work.prefix);
}

// The key tiles that some row of a stretch sees, in order: those that hold keys [0, head) and those of [low,
// high).
//
//     tile     0     1     2     3     4     5     6
//           +-----+-----+     .     .  +-----+-----+
//           |  head     |      skipped |  window   |
//           +-----+-----+     .     .  +-----+-----+
struct KeyTiles {
  int head_end, low, end;
  GPU_FN int first() const { return head_end > 0 ? 0 : low; }
  GPU_FN int after(int tile) const { return tile + 1 >= head_end && tile + 1 < low ? low : tile + 1; }
};

// Of the rows between a first and a last, whose bounds all others' lie between (core/mask.h).
GPU_FN KeyTiles key_tiles(const Visible& first, const Visible& last, int keys) {
  const int head_end = static_cast<int>((last.head + keys - 1) / keys);
  if (first.low >= last.high) return {head_end, 0, head_end};
  const int low = static_cast<int>(first.low / keys), high = static_cast<int>((last.high + keys - 1) / keys);
  return {head_end, low, max(high, head_end)};
}

// The keys that all of those rows see: [0, head) and [low, high).
struct SeenByAll {
  int head, low, high;
  GPU_FN bool holds(int begin, int end) const { return end <= head || (low <= begin && end <= high); }
};
GPU_FN SeenByAll seen_by_all(const Visible& first, const Visible& last) {
  return {static_cast<int>(first.head), static_cast<int>(last.low), static_cast<int>(first.high)};
}

}  // namespace pyllm::attention
