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
  int64_t sequence, batch, first_query, first_key;
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

// Sequence `sequence`, all of it.
GPU_FN Work work_of(const CudaForward& f, int64_t sequence) {
  Tokens queries = {0, f.q_len}, keys = {0, f.kv_len};
  if (f.q_borders.data) queries = between(f.q_borders, sequence, f.q_len);
  if (f.k_borders.data) keys = between(f.k_borders, sequence, f.kv_len);
  if (f.kv_lengths.data) keys.count = clamp(at(f.kv_lengths, sequence), 0, f.kv_len);
  Work work;
  work.sequence = sequence;
  work.batch = f.q_borders.data ? 0 : sequence;
  work.first_query = queries.first;
  work.first_key = keys.first;
  work.q_len = static_cast<int>(queries.count);
  work.kv_len = static_cast<int>(keys.count);
  work.prefix = f.prefix.data ? static_cast<int>(clamp(at(f.prefix, sequence), 0, f.kv_len)) : 0;
  work.first_row = 0;
  return work;
}

// Which sequence tile `tile`, counted through all of them, belongs to, and its number there;
// `count(sequence)` tiles each if they are packed, otherwise `most`. False past the last.
struct TileOf {
  int64_t sequence, tile, tiles;
};
template <class Count>
GPU_FN bool find_tile(const CudaForward& f, int64_t tile, int64_t most, const Count& count, TileOf& found) {
  if (!f.q_borders.data) {
    found = {tile / most, tile % most, most};
    return true;
  }
  for (int64_t sequence = 0; sequence < f.sequences; ++sequence) {
    const int64_t tiles = count(sequence);
    found = {sequence, tile, tiles};
    if (tile < tiles) return true;
    tile -= tiles;
  }
  return false;
}

GPU_FN int64_t tiles_of(int64_t count, int size) { return (count + size - 1) / size; }

// The work of row tile `tile` of `rows` rows; false past the last. Within a sequence the last tile comes
// first: under a causal mask it takes longest.
GPU_FN bool find_work(const CudaForward& f, int64_t tile, int rows, Work& work) {
  const int64_t group = f.heads / f.kv_heads;
  TileOf found;
  const auto count = [&](int64_t sequence) {
    return tiles_of(between(f.q_borders, sequence, f.q_len).count * group, rows);
  };
  if (!find_tile(f, tile, tiles_of(f.q_len * group, rows), count, found)) return false;
  work = work_of(f, found.sequence);
  work.first_row = static_cast<int>(found.tiles - 1 - found.tile) * rows;
  return true;
}

// The same for key tile `tile` of `keys` keys, from key `first_key` of the sequence on.
GPU_FN bool find_key_work(const CudaForward& f, int64_t tile, int keys, Work& work, int& first_key) {
  TileOf found;
  const auto count = [&](int64_t sequence) {
    return tiles_of(between(f.k_borders, sequence, f.kv_len).count, keys);
  };
  if (!find_tile(f, tile, tiles_of(f.kv_len, keys), count, found)) return false;
  work = work_of(f, found.sequence);
  first_key = static_cast<int>(found.tile) * keys;
  return first_key < work.kv_len;
}

// Row `row` of a sequence in a tensor of queries, and key `key` in one of keys; null past the last.
template <class T>
GPU_FN T* query_row(const Heads& x, const Work& work, int kv_head, int group, int row) {
  if (row >= work.q_len * group) return nullptr;
  return static_cast<T*>(x.data) + work.batch * x.batch + (kv_head * group + row % group) * x.head +
         (work.first_query + row / group) * x.token;
}
template <class T>
GPU_FN T* key_row(const Heads& x, const Work& work, int kv_head, int key) {
  if (key >= work.kv_len) return nullptr;
  return static_cast<T*>(x.data) + work.batch * x.batch + kv_head * x.head + (work.first_key + key) * x.token;
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

// True if some of those rows may see some of the keys [begin, end).
GPU_FN bool see_some(const Visible& first, const Visible& last, int begin, int end) {
  return last.head > begin || (last.high > begin && first.low < end);
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
