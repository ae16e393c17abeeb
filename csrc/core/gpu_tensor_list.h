// Many tensors in one launch: their addresses travel as a kernel's parameter, and blocks are shared out among
// them in order. A model of 135M parameters has 272 tensors, and a launch for each would take longer than the
// work.
#pragma once

#include <vector>

#include "core/gpu.h"
#include "core/gpu_launch.h"

namespace pyllm::gpu {

// At most 4 KB, the least that every driver takes as parameters.
template <class Entry>
struct TensorList {
  static constexpr int kMost = (4096 - 256) / (sizeof(Entry) + sizeof(int32_t));
  int32_t count = 0;
  int32_t blocks_before[kMost + 1] = {};
  Entry entry[kMost];
};

// Where the calling block works: on block `block` of an entry's own.
struct Place {
  int entry, block;
};

template <class Entry>
GPU_FN Place my_place(const TensorList<Entry>& list) {
  const int block = blockIdx.x;
  int low = 0;
  for (int high = list.count; high - low > 1;) {
    const int middle = (low + high) / 2;
    (list.blocks_before[middle] <= block ? low : high) = middle;
  }
  return {low, block - list.blocks_before[low]};
}

// Calls run(list, blocks) until all entries have been in a list; blocks_of(entry) may be 0.
template <class Entry, class Blocks, class Run>
void for_lists(const std::vector<Entry>& entries, const Blocks& blocks_of, const Run& run) {
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  TensorList<Entry> list;
  const auto finish = [&] {
    if (list.count > 0) run(list, int64_t{list.blocks_before[list.count]});
    list.count = 0;
  };
  for (const Entry& entry : entries) {
    const int64_t blocks = blocks_of(entry);
    if (blocks == 0) continue;
    if (list.count == list.kMost || list.blocks_before[list.count] + blocks > kMostBlocks) finish();
    list.entry[list.count] = entry;
    list.blocks_before[list.count + 1] = list.blocks_before[list.count] + static_cast<int32_t>(blocks);
    ++list.count;
  }
  finish();
}

}  // namespace pyllm::gpu
