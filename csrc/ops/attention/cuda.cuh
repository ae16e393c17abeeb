// FlashAttention-2's forward pass (Dao, 2023) on mma.m16n8k16. A block of four warps owns kRows rows of one
// kv head and walks the key tiles that they see; a warp owns 16 kStrips of the rows for itself, so softmax
// needs no other warp:
//
//                      K tile j (kKeys x kDim)                       V tile j
//                    +------------------------+                  +-------------+
//                    |  ldmatrix              |                  | ldmatrix.T  |
//                    +------------------------+                  +-------------+
//   Q    +------+    +------------------------+    P (packed)    +-------------+
//   rows |warp 0| -> | S: kKeys/8 fragments   | -> in registers->| O += P V    |
//        |warp 1|    +------------------------+                  +-------------+
//        | ...  |      S = scale log2(e) Q K^T, masked;  m = max(m, S);  P = 2^(S - m);  O, l rescaled
//        +------+
//
// K and V lie twice in shared memory: while tile j is used, cp.async fetches the next that is seen. One
// barrier a tile: it says both that tile j has landed for everybody and that nobody reads the buffer that is
// to be filled. Tiles that every row sees whole skip the mask. Four lanes share a row of S and O (gpu_ptx.h),
// and two shuffles sum it up.
#pragma once

#include "core/gpu.h"
#include "core/gpu_ptx.h"
#include "core/gpu_vector.h"
#include "ops/attention/cuda_geometry.cuh"
#include "ops/attention/cuda_products.cuh"
#include "ops/attention/cuda_scores.cuh"
#include "ops/attention/cuda_softmax.cuh"

namespace pyllm::attention {

// Rows and keys of a tile. Shared memory is kept to 96 KB, which every GPU since sm_80 has; two strips a warp
// at head size 128, or 64 keys at 96, would need more than 255 registers.
template <int kDim>
struct Shape {
  static constexpr int kStrips = kDim <= 96 ? 2 : 1;
  static constexpr int kRows = 16 * kStrips * kWarps;
  static constexpr int kKeys = kDim == 96 || kDim == 256 ? 32 : 64;
  static constexpr int kBytes = (kRows + 4 * kKeys) * kDim * 2;
};

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads) attention_forward(const CudaForward f) {
  using gpu::kWarp;
  constexpr int kStrips = Shape<kDim>::kStrips, kRows = Shape<kDim>::kRows, kKeys = Shape<kDim>::kKeys;
  GPU_DYNAMIC_SHARED(T, shared);
  T *const q_tile = shared, *const k_tiles = q_tile + kRows * kDim,
           *const v_tiles = k_tiles + 2 * kKeys * kDim;
  Work work;
  if (!find_work(f, blockIdx.x, kRows, work)) return;
  const int group = static_cast<int>(f.heads / f.kv_heads), kv_head = blockIdx.y;
  const int rows_left = work.q_len * group - work.first_row;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const auto fetch_keys = [&](int tile, int buffer) {
    const auto row_of = [&](const Heads& x) {
      return [&, tile](int r) { return key_row<const T>(x, work, kv_head, tile * kKeys + r); };
    };
    T *const k_tile = k_tiles + buffer * kKeys * kDim, *const v_tile = v_tiles + buffer * kKeys * kDim;
    fetch_rows<kDim, kKeys>(k_tile, f.k.data, static_cast<int>(f.head_dim), row_of(f.k));
    fetch_rows<kDim, kKeys>(v_tile, f.v.data, static_cast<int>(f.value_dim), row_of(f.v));
    gpu::commit_copies();
  };

  RowPair rows[kStrips];
  find_rows(work, kv_head, group, rows);
  const Visible first = visible(f, work, work.first_row / group);
  const Visible last = visible(f, work, (work.first_row + min(kRows, rows_left) - 1) / group);
  const KeyTiles tiles = key_tiles(first, last, kKeys);
  const SeenByAll seen = seen_by_all(first, last);
  const Scaling scaling = scaling_of(f);

  RowSums softmax[kStrips];
  float o[kStrips][kDim / 8][4] = {};
  fetch_rows<kDim, kRows>(q_tile, f.q.data, static_cast<int>(f.head_dim), [&](int r) {
    return query_row<const T>(f.q, work, kv_head, group, work.first_row + r);
  });
  if (tiles.first() < tiles.end) fetch_keys(tiles.first(), 0);
  int buffer = 0;
  for (int tile = tiles.first(), next; tile < tiles.end; tile = next, buffer ^= 1) {
    next = tiles.after(tile);
    gpu::wait_for_copies<0>();
    __syncthreads();
    if (next < tiles.end) fetch_keys(next, buffer ^ 1);
    float s[kStrips][kKeys / 8][4] = {};
    multiply_transposed<kDim>(q_tile, k_tiles + buffer * kKeys * kDim, s);
    const bool full = seen.holds(tile * kKeys, (tile + 1) * kKeys);
    const auto key_of = [&](int n, int e) -> int { return tile * kKeys + 8 * n + threadIdx.x % 4 * 2 + e; };
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      scale_scores(f, scaling.plain, s[strip]);
      hide_scores(f, work, rows[strip], full, s[strip], key_of);
      add_to_softmax(softmax[strip], scaling.multiplier, s[strip], o[strip]);
    }
    add_product<kDim>(s, v_tiles + buffer * kKeys * kDim, 0, o);
  }
  gpu::commit_copies();
  gpu::wait_for_copies<0>();  // without a tile of keys nobody has waited for the block's own
  __syncthreads();

  float factor[kStrips][2];
#pragma unroll
  for (int i = 0; i < 2 * kStrips; ++i) {
    const int strip = i / 2, half = i % 2, row = (warp * kStrips + strip) * 16 + lane / 4 + 8 * half;
    const int head = rows[strip].head[half];
    float lse;
    factor[strip][half] = finish_row(f, softmax[strip], half, head, lse);
    if (lane % 4 == 0 && row < rows_left) {
      f.lse[(work.batch * f.heads + head) * f.q_len + work.first_query + rows[strip].query[half]] = lse;
    }
  }
  store_strips<kDim>(q_tile, o, factor, 0, static_cast<int>(f.value_dim),
                     [&](int r) { return query_row<T>(f.out, work, kv_head, group, work.first_row + r); });
}

}  // namespace pyllm::attention
