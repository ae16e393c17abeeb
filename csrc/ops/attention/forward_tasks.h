// The forward pass but for its arithmetic: which keys and values are packed when, which thread joins which
// blocks to which tile, in what order sums merge. A level (portable.cpp, amx_forward.cpp) gives the rest:
//
//   Type                            of the tensors
//   packed_floats(p)                memory of a packed block of keys and values
//   pack(p, s, kv_head, b, to)      packs block b of ordinary tensors
//   Workspace(p, rows)              a thread's scratch for tiles of at most `rows` rows; .total: sums_size
//   floats load(p, t, space)               brings a tile's queries into the form that products want attend(p,
//   t, b, packed, space, into)    joins block b to the tile's sums; `packed` is null where no packed
//                                           block was made beforehand
#pragma once

#include "core/scratch.h"
#include "ops/attention/schedule.h"
#include "ops/attention/sums.h"

namespace pyllm::attention {
namespace {

// A wave takes kv heads until their packed keys and values, in floats, fill this much of the last-level cache
// (4 MB) and there are kWantedTasks tiles; but never more than threads keep as scratch (16 MB).
constexpr int64_t kWaveFloats = int64_t{1} << 20;
constexpr int64_t kMostWaveFloats = int64_t{1} << 22;

// Pairs (sequence, kv head) [begin, end), with their packed blocks if they have any.
struct Wave {
  int64_t begin, end;
  const float* packed;

  bool is_packed(const Problem& p, const Sequence& s) const { return packed && tile_count(p, s) > 1; }
};

[[maybe_unused]] inline int64_t block_count(const Problem& p, int64_t pair) {
  return ceil_div(p.sequence[pair / p.kv_heads].kv_len, kBlock);
}

// Blocks of the wave's pairs before this one. A sequence's blocks lie together, kv head by kv head.
[[maybe_unused]] inline int64_t blocks_before(const Problem& p, const Wave& w, int64_t pair) {
  const auto before = [&](int64_t n) {
    const Sequence& s = p.sequence[n / p.kv_heads];
    return s.blocks_before * p.kv_heads + n % p.kv_heads * ceil_div(s.kv_len, kBlock);
  };
  return before(pair) - before(w.begin);
}

// True if the dense mask is boolean and no row of the tile may attend to any key of the block.
[[maybe_unused]] inline bool hidden_by_mask(const Problem& p, const Tile& t, const Block& b) {
  if (!p.mask.data || !p.mask.boolean) return false;
  uint8_t any = 0;
  for_each_row(t, [&](int64_t, int64_t head, int64_t query) {
    if (any) return;
    const uint8_t* attend =
        static_cast<const uint8_t*>(p.mask.data) + mask_row(p.mask.strides, t.s, head, query);
    for (int64_t key = b.first; key < b.first + b.keys; ++key) any |= attend[key * p.mask.strides.key];
  });
  return !any;
}

// Joins block `index` to the sums of a tile whose queries are loaded.
template <class Level>
[[maybe_unused]] void attend(const Problem& p, const Wave& w, const Tile& t, int64_t index,
                             const typename Level::Workspace& space, const Sums& into) {
  const Block b = make_block(t.s, index);
  if (visible_columns(p, t, b).last == 0 || hidden_by_mask(p, t, b)) return;
  const float* packed = nullptr;
  if (w.is_packed(p, t.s)) {
    const int64_t pair = (&t.s - p.sequence) * p.kv_heads + t.kv_head;
    packed = w.packed + (blocks_before(p, w, pair) + index) * Level::packed_floats(p);
  }
  Level::attend(p, t, b, packed, space, into);
}

// Sums of the blocks of tiles that several tasks share, and how many of these tasks are done.
struct Kept {
  Kept(const Problem& p, const Schedule& s, int64_t rows)
      : block_size(sums_size(p, rows)), sums(s.kept * block_size), done(s.splits.size()) {}

  float* block(const Split& split, int64_t index) const {
    return sums.get() + (split.kept + index - split.first) * block_size;
  }

  int64_t block_size;
  pyllm::Scratch sums;  // the backward has a Scratch of its own
  std::vector<std::atomic<int64_t>> done;
};

template <class Level>
[[maybe_unused]] void run_task(const Forward& f, const Wave& w, const Task& task, const Schedule& schedule,
                               Kept& kept, const typename Level::Workspace& space) {
  const Problem& p = f.problem;
  const Tile t = make_tile(p, p.sequence[task.sequence], task.kv_head, task.tile);
  const int64_t rows = row_count(t);
  const Sums total = sums_at(p, space.total, rows);
  Level::load(p, t, space);
  clear(total, rows);
  if (task.split < 0) {
    for (int64_t i = task.first; i < task.last; ++i) attend<Level>(p, w, t, i, space, total);
    finish<typename Level::Type>(f, t, total);
    return;
  }
  const Split& split = schedule.splits[static_cast<size_t>(task.split)];
  for (int64_t i = task.first; i < task.last; ++i) {
    const Sums block = sums_at(p, kept.block(split, i), rows);
    clear(block, rows);
    attend<Level>(p, w, t, i, space, block);
  }
  auto& done = kept.done[static_cast<size_t>(task.split)];
  if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < split.parts) return;
  for (int64_t i = split.first; i < split.last; ++i) {
    merge(sums_at(p, kept.block(split, i), rows), total, rows);
  }
  finish<typename Level::Type>(f, t, total);
}

template <class Level>
[[maybe_unused]] void pack_wave(const Problem& p, const Wave& w, float* packed) {
  parallel_for(w.begin, w.end, 1, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const Sequence& s = p.sequence[pair / p.kv_heads];
      if (!w.is_packed(p, s)) continue;
      for (int64_t i = 0; i < block_count(p, pair); ++i) {
        Level::pack(p, s, pair % p.kv_heads, make_block(s, i),
                    packed + (blocks_before(p, w, pair) + i) * Level::packed_floats(p));
      }
    }
  });
}

template <class Level>
[[maybe_unused]] void run_wave(const Forward& f, const Wave& w) {
  const Problem& p = f.problem;
  const Schedule schedule = make_schedule(p, w.begin, w.end);
  const int64_t rows = largest_tile(p);
  Kept kept(p, schedule, rows);
  run_tasks(static_cast<int64_t>(schedule.tasks.size()), [&](const auto& next) {
    const typename Level::Workspace space(p, rows);
    for (int64_t i = next(); i >= 0; i = next()) {
      run_task<Level>(f, w, schedule.tasks[static_cast<size_t>(i)], schedule, kept, space);
    }
  });
}

[[maybe_unused]] inline bool has_long_sequence(const Problem& p) {
  for (int64_t i = 0; i < p.sequences; ++i) {
    if (tile_count(p, p.sequence[i]) > 1) return true;
  }
  return false;
}

template <class Level>
[[maybe_unused]] void run_forward_at(const Forward& f) {
  const Problem& p = f.problem;
  const int64_t pairs = p.sequences * p.kv_heads;
  if (p.pages.data || !has_long_sequence(p)) {
    run_wave<Level>(f, {0, pairs, nullptr});
    return;
  }
  const int64_t size = Level::packed_floats(p);
  for (Wave w = {0, 0, nullptr}; w.begin < pairs; w.begin = w.end) {
    int64_t floats = 0, tiles = 0;
    for (w.end = w.begin; w.end < pairs; ++w.end) {
      const int64_t more = block_count(p, w.end) * size;
      const int64_t limit = tiles < kWantedTasks ? kMostWaveFloats : kWaveFloats;
      if (w.end > w.begin && floats + more > limit) break;
      floats += more;
      tiles += tile_count(p, p.sequence[w.end / p.kv_heads]);
    }
    const pyllm::Scratch packed(floats);
    w.packed = packed.get();
    pack_wave<Level>(p, w, packed.get());
    run_wave<Level>(f, w);
  }
}

}  // namespace
}  // namespace pyllm::attention
