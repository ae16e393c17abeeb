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
//
// Shared memory holds rows of kDim elements in chunks of 16 bytes, swizzled: chunk c of row r lies at place c
// ^ (r % 8) of its row, so that the eight rows of an ldmatrix hit all 32 banks; rows of 96 elements shift by
// half the banks anyway, and there the two bits above do. Heads narrower than kDim are filled up with zeros.
#pragma once

#include "core/gpu.h"
#include "core/gpu_ptx.h"
#include "core/gpu_vector.h"
#include "ops/attention/cuda_geometry.cuh"

namespace pyllm::attention {

constexpr int kThreads = 128, kWarps = kThreads / gpu::kWarp;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// Rows and keys of a tile. Shared memory is kept to 96 KB, which every GPU since sm_80 has; two strips a warp
// at head size 128, or 64 keys at 96, would need more than 255 registers.
template <int kDim>
struct Shape {
  static constexpr int kStrips = kDim <= 96 ? 2 : 1;
  static constexpr int kRows = 16 * kStrips * kWarps;
  static constexpr int kKeys = kDim == 96 || kDim == 256 ? 32 : 64;
  static constexpr int kBytes = (kRows + 4 * kKeys) * kDim * 2;
};

template <int kDim, class T>
GPU_FN T* chunk_at(T* tile, int row, int chunk) {
  const int swizzled = kDim % 64 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
  return tile + row * kDim + swizzled * 8;
}

// Starts copies of kCount rows of `dim` elements: row(r) is where row r lies, null for zeros.
template <int kDim, int kCount, class T, class Row>
GPU_FN void fetch_rows(T* tile, const T* somewhere, int dim, const Row& row GPU_SITE) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < kCount * kChunks; i += kThreads) {
    const int r = i / kChunks, chunk = i % kChunks;
    const T* from = row(r);
    const bool valid = from && chunk * 8 < dim;
    gpu::copy_async(chunk_at<kDim>(tile, r, chunk), valid ? from + chunk * 8 : somewhere, valid GPU_HERE);
  }
}

// S = Q K^T for the calling warp's strips.
template <class T, int kDim>
GPU_FN void multiply_keys(const T* q_tile, const T* k_tile,
                          float (&s)[Shape<kDim>::kStrips][Shape<kDim>::kKeys / 8][4]) {
  constexpr int kStrips = Shape<kDim>::kStrips, kKeys = Shape<kDim>::kKeys;
  const int warp = threadIdx.x / gpu::kWarp, lane = threadIdx.x % gpu::kWarp;
#pragma unroll
  for (int c = 0; c < kDim / 16; ++c) {
    uint32_t q[kStrips][4];
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      const int row = (warp * kStrips + strip) * 16 + lane % 16;
      gpu::ldmatrix<false>(q[strip], chunk_at<kDim>(q_tile, row, 2 * c + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint32_t k[4];
      gpu::ldmatrix<false>(k,
                           chunk_at<kDim>(k_tile, n * 16 + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2));
#pragma unroll
      for (int strip = 0; strip < kStrips; ++strip) {
        gpu::mma<T>(s[strip][2 * n], q[strip], k[0], k[1]);
        gpu::mma<T>(s[strip][2 * n + 1], q[strip], k[2], k[3]);
      }
    }
  }
}

// O += P V, where P's accumulators, packed, are the A fragments as they stand.
template <class T, int kDim>
GPU_FN void multiply_values(const float (&p)[Shape<kDim>::kStrips][Shape<kDim>::kKeys / 8][4],
                            const T* v_tile, float (&o)[Shape<kDim>::kStrips][kDim / 8][4]) {
  constexpr int kStrips = Shape<kDim>::kStrips, kKeys = Shape<kDim>::kKeys;
  const int lane = threadIdx.x % gpu::kWarp;
#pragma unroll
  for (int c = 0; c < kKeys / 16; ++c) {
    uint32_t a[kStrips][4];
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &p[strip][2 * c + i / 2][2 * (i % 2)];
        a[strip][i] = gpu::pack<T>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t v[4];
      gpu::ldmatrix<true>(v, chunk_at<kDim>(v_tile, c * 16 + lane % 16, 2 * d + lane / 16));
#pragma unroll
      for (int strip = 0; strip < kStrips; ++strip) {
        gpu::mma<T>(o[strip][2 * d], a[strip], v[0], v[1]);
        gpu::mma<T>(o[strip][2 * d + 1], a[strip], v[2], v[3]);
      }
    }
  }
}

// tanh on the exponential unit: its error of 2^-21 is far below a 16-bit score's own.
GPU_FN float tanh_fast(float x) { return 1.0f - 2.0f / (1.0f + gpu::exp2_fast(2.0f * kLog2E * x)); }

GPU_FN float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(gpu::kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(gpu::kAllLanes, x, 2));
}
GPU_FN float quad_sum(float x) {
  x += __shfl_xor_sync(gpu::kAllLanes, x, 1);
  return x + __shfl_xor_sync(gpu::kAllLanes, x, 2);
}

// Two rows of a strip, eight apart, as a lane has them: their softmax so far.
struct RowPair {
  int query[2], head[2];
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
};

// The strip's scores of one key tile from dot products to logits of base 2 over `multiplier`, hidden ones
// -infinity.
template <int kFragments>
GPU_FN void make_scores(const CudaForward& f, const Work& work, const RowPair& rows, int first_key, bool full,
                        bool plain, float (&s)[kFragments][4]) {
  const int column = first_key + threadIdx.x % 4 * 2;  // of element [n][e]: column + 8 n + e % 2
  if (f.softcap > 0) {
    const float inner = f.scale / f.softcap, outer = f.softcap * kLog2E;
#pragma unroll
    for (int i = 0; i < 4 * kFragments; ++i) s[i / 4][i % 4] = outer * tanh_fast(inner * s[i / 4][i % 4]);
  } else if (!plain) {
#pragma unroll
    for (int i = 0; i < 4 * kFragments; ++i) s[i / 4][i % 4] *= f.scale * kLog2E;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int position = rows.query[half] + work.kv_len - work.q_len;
    if (f.alibi_slopes) {
      const float slope = f.alibi_slopes[rows.head[half]] * kLog2E;
#pragma unroll
      for (int i = 0; i < 2 * kFragments; ++i) {
        const int key = column + i / 2 * 8 + i % 2;
        s[i / 2][2 * half + i % 2] -= slope * static_cast<float>(abs(position - key));
      }
    }
    if (full) continue;
    const Visible v = visible(f, work, rows.query[half]);
    const int head = static_cast<int>(v.head), low = static_cast<int>(v.low), high = static_cast<int>(v.high);
#pragma unroll
    for (int i = 0; i < 2 * kFragments; ++i) {
      const int key = column + i / 2 * 8 + i % 2;
      const bool seen = key < head || (key >= low && key < high);
      if (!seen) s[i / 2][2 * half + i % 2] = -INFINITY;
    }
  }
}

// Scores to weights under the rows' new maxima; what was summed before is rescaled. `multiplier` is positive.
template <int kFragments, int kOutputs>
GPU_FN void add_to_softmax(RowPair& rows, float multiplier, float (&s)[kFragments][4],
                           float (&o)[kOutputs][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float tile = -INFINITY;
#pragma unroll
    for (int i = 0; i < 2 * kFragments; ++i) tile = fmaxf(tile, s[i / 2][2 * half + i % 2]);
    const float largest = fmaxf(rows.largest[half], quad_max(tile) * multiplier);
    const float base = largest == -INFINITY ? 0.0f : largest;  // nothing seen yet
    const float rescale = gpu::exp2_fast(rows.largest[half] - base);
    rows.largest[half] = largest;
    rows.sum[half] *= rescale;
#pragma unroll
    for (int i = 0; i < 2 * kFragments; ++i) {
      float& x = s[i / 2][2 * half + i % 2];
      x = gpu::exp2_fast(fmaf(x, multiplier, -base));
      rows.sum[half] += x;
    }
#pragma unroll
    for (int i = 0; i < 2 * kOutputs; ++i) o[i / 2][2 * half + i % 2] *= rescale;
  }
}

// The factor that makes row `half` of O the output, and its lse; the sink joins the denominator.
GPU_FN float finish_row(const CudaForward& f, const RowPair& rows, int half, float& lse) {
  float sum = quad_sum(rows.sum[half]), base = rows.largest[half], factor = 1.0f;
  if (f.sink_logits) {
    const float sink = f.sink_logits[rows.head[half]] * kLog2E;
    base = fmaxf(base, sink);
    factor = gpu::exp2_fast(rows.largest[half] - base);
    sum = sum * factor + gpu::exp2_fast(sink - base);
  }
  lse = (base + log2f(sum)) * kLn2;
  return sum == 0.0f ? 0.0f : factor / sum;
}

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
  // Row `row` of the tile in a tensor of queries; null past the last.
  const auto query_row = [&](const Heads& x, int row) -> T* {
    if (row >= rows_left) return nullptr;
    const int query = (work.first_row + row) / group, head = kv_head * group + (work.first_row + row) % group;
    return static_cast<T*>(x.data) + work.batch * x.batch + head * x.head +
           (work.first_query + query) * x.token;
  };
  const T* const k = static_cast<const T*>(f.k.data) + work.batch * f.k.batch + kv_head * f.k.head +
                     work.first_key * f.k.token;
  const T* const v = static_cast<const T*>(f.v.data) + work.batch * f.v.batch + kv_head * f.v.head +
                     work.first_key * f.v.token;
  const auto fetch_keys = [&](int tile, int buffer) {
    const auto row = [&](const T* x, int64_t stride) {
      return [=, &work](int r) {
        return tile * kKeys + r < work.kv_len ? x + (tile * kKeys + r) * stride : nullptr;
      };
    };
    T *const k_tile = k_tiles + buffer * kKeys * kDim, *const v_tile = v_tiles + buffer * kKeys * kDim;
    fetch_rows<kDim, kKeys>(k_tile, k, static_cast<int>(f.head_dim), row(k, f.k.token));
    fetch_rows<kDim, kKeys>(v_tile, v, static_cast<int>(f.value_dim), row(v, f.v.token));
    gpu::commit_copies();
  };

  RowPair rows[kStrips];
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (warp * kStrips + strip) * 16 + lane / 4 + 8 * half;
      rows[strip].query[half] = (work.first_row + row) / group;
      rows[strip].head[half] = kv_head * group + (work.first_row + row) % group;
    }
  }
  const Visible first = visible(f, work, work.first_row / group);
  const Visible last = visible(f, work, (work.first_row + min(kRows, rows_left) - 1) / group);
  const KeyTiles tiles = key_tiles(first, last, kKeys);
  const SeenByAll seen = seen_by_all(first, last);
  // Scores that only need scaling are scaled inside the exponential.
  const bool plain = f.softcap == 0 && !f.alibi_slopes && f.scale > 0;
  const float multiplier = plain ? f.scale * kLog2E : 1.0f;

  float o[kStrips][kDim / 8][4] = {};
  const auto row_of_q = [&](int r) -> const T* { return query_row(f.q, r); };
  fetch_rows<kDim, kRows>(q_tile, static_cast<const T*>(f.q.data), static_cast<int>(f.head_dim), row_of_q);
  if (tiles.first() < tiles.end) fetch_keys(tiles.first(), 0);
  int buffer = 0;
  for (int tile = tiles.first(), next; tile < tiles.end; tile = next, buffer ^= 1) {
    next = tiles.after(tile);
    gpu::wait_for_copies<0>();
    __syncthreads();
    if (next < tiles.end) fetch_keys(next, buffer ^ 1);
    float s[kStrips][kKeys / 8][4] = {};
    multiply_keys<T, kDim>(q_tile, k_tiles + buffer * kKeys * kDim, s);
    const bool full = seen.holds(tile * kKeys, (tile + 1) * kKeys);
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      make_scores(f, work, rows[strip], tile * kKeys, full, plain, s[strip]);
      add_to_softmax(rows[strip], multiplier, s[strip], o[strip]);
    }
    multiply_values<T, kDim>(s, v_tiles + buffer * kKeys * kDim, o);
  }
  gpu::commit_copies();
  gpu::wait_for_copies<0>();  // of rows that see no key, only Q was fetched

  __syncwarp();  // its lanes have read Q for the last time
  // O to the warp's own rows of the Q tile, and from there to memory, 16 bytes a lane.
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (warp * kStrips + strip) * 16 + lane / 4 + 8 * half;
      float lse;
      const float factor = finish_row(f, rows[strip], half, lse);
      if (lane % 4 == 0 && row < rows_left) {
        f.lse[(work.batch * f.heads + rows[strip].head[half]) * f.q_len + work.first_query +
              rows[strip].query[half]] = lse;
      }
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        const float* pair = &o[strip][d][2 * half];
        const uint32_t packed = gpu::pack<T>(pair[0] * factor, pair[1] * factor);
        *reinterpret_cast<uint32_t*>(chunk_at<kDim>(q_tile, row, d) + lane % 4 * 2) = packed;
      }
    }
  }
  __syncwarp();
  constexpr int kChunks = kDim / 8, kMine = 16 * kStrips;
  for (int i = lane; i < kMine * kChunks; i += kWarp) {
    const int row = warp * kMine + i / kChunks, chunk = i % kChunks;
    T* to = query_row(f.out, row);
    if (to && chunk * 8 < f.value_dim) {
      gpu::store(to + chunk * 8, gpu::load<T, 8>(chunk_at<kDim>(q_tile, row, chunk)));
    }
  }
}

}  // namespace pyllm::attention
