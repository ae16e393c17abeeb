// Forward as a list of tasks, cut by shape alone: a tile of queries (all heads of a kv head) against all the
// blocks of keys it sees, or, where there are too few tiles to keep many threads busy, against a part of
// them:
//
//   prefill, training   one task a tile; a head's tiles from the last, which under a causal mask is the
//                       heaviest, to the first
//   decoding            one task a sequence and kv head, or several over parts of a long context; each
//   block's
//                       sums are then kept, and whoever finishes a tile last merges them from left to right
//
// Threads take tasks from the list as they get free. Which thread runs a task changes no bits: tasks are
// independent, and every merge has one order.
#pragma once

#include <atomic>
#include <vector>

#include "core/parallel.h"
#include "ops/attention/tile.h"

namespace pyllm::attention {
namespace {

// A tile of (sequence, kv_head) against blocks [first, last).
struct Task {
  int64_t sequence, kv_head, tile, first, last;
  int64_t split;  // place among the split tiles, or -1 where this is all of the tile
};

// A tile cut into `parts` tasks. Sums of its blocks [first, last) are kept from place `kept` on.
struct Split {
  int64_t first, last, kept, parts;
};

struct Schedule {
  std::vector<Task> tasks;
  std::vector<Split> splits;
  int64_t kept = 0;  // blocks whose sums are kept, over all splits
};

// Blocks [first, last) hold all that a tile sees.
struct BlockRange {
  int64_t first, last;
};

[[maybe_unused]] inline BlockRange visible_blocks(const Problem& p, const Tile& t) {
  const Visible top = visible(p, t.s, t.first), bottom = visible(p, t.s, t.first + t.queries - 1);
  const KeyRange keys = visible_range({bottom.head, top.low, bottom.high}, 0, t.s.kv_len);
  return {keys.first / kBlock, ceil_div(keys.last, kBlock)};
}

// Contexts are split so that this many tasks come out, if the sums that must be kept are not too large.
constexpr int64_t kWantedTasks = 64;
constexpr int64_t kKeptFloats = int64_t{1} << 22;  // 16 MB

// Tasks of the pairs (sequence, kv head) [begin, end), numbered sequence * kv_heads + kv_head.
[[maybe_unused]] inline Schedule make_schedule(const Problem& p, int64_t begin, int64_t end) {
  int64_t all_blocks = 0;
  const auto for_each_tile = [&](const auto& f) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const Sequence& s = p.sequence[pair / p.kv_heads];
      for (int64_t i = tile_count(p, s) - 1; i >= 0; --i) {
        f(pair, i, visible_blocks(p, make_tile(p, s, pair % p.kv_heads, i)));
      }
    }
  };
  for_each_tile(
      [&](int64_t, int64_t, const BlockRange& blocks) { all_blocks += blocks.last - blocks.first; });
  const bool fits = all_blocks * largest_tile(p) * (p.value_dim + 2) <= kKeptFloats;
  const int64_t step = fits ? ceil_div(all_blocks, kWantedTasks) : all_blocks;
  Schedule schedule;
  for_each_tile([&](int64_t pair, int64_t tile, const BlockRange& blocks) {
    Task task = {pair / p.kv_heads, pair % p.kv_heads, tile, blocks.first, blocks.last, -1};
    const int64_t count = blocks.last - blocks.first;
    if (count <= step) {
      schedule.tasks.push_back(task);
      return;
    }
    task.split = static_cast<int64_t>(schedule.splits.size());
    schedule.splits.push_back({blocks.first, blocks.last, schedule.kept, ceil_div(count, step)});
    schedule.kept += count;
    for (task.first = blocks.first; task.first < blocks.last; task.first += step) {
      task.last = smaller(task.first + step, blocks.last);
      schedule.tasks.push_back(task);
    }
  });
  return schedule;
}

// Calls worker(next) on each thread; next() gives the number of a task that is left, or -1.
template <class Worker>
[[maybe_unused]] void run_tasks(int64_t count, const Worker& worker) {
  std::atomic<int64_t> taken{0};
  parallel_for(0, count, 1, [&](int64_t, int64_t) {
    worker([&]() -> int64_t {
      const int64_t task = taken.fetch_add(1, std::memory_order_relaxed);
      return task < count ? task : -1;
    });
  });
}

}  // namespace
}  // namespace pyllm::attention
