// FlashAttention-2's backward pass (Dao, 2023) without atomics, so that bits depend on shapes alone: rows'
// gradients and keys' gradients come from a kernel each, and both work out the scores anew. Seven products of
// a tile instead of five are the price.
//
//   attention_deltas   per row: lse of base 2, and delta = dO . O - dlse, in the order of folded rows
//   attention_grad_q   a block owns 64 rows and walks key tiles:   S = Q K^T, dP = dO V^T,
//                        dS = P (dP - delta) softcap',  dQ += dS K
//   attention_grad_kv  a block owns 64 keys and walks row tiles:   S^T = K Q^T, dP^T = V dO^T,
//                        dV += P^T dO,  dK += dS^T Q
//   attention_grad_sink   a block sums - P(sink) delta of a head
//
// Each warp owns 16 of the block's rows, or keys, for itself: P and dS stay in registers, where accumulators
// are the A fragments of the next product. The other side's two tiles lie twice in shared memory, as in the
// forward pass. A block sums at most 128 columns of dK and dV, which is what 255 registers hold; at head size
// 256 two blocks share the keys.
#pragma once

#include "core/gpu_reduce.h"
#include "ops/attention/cuda_products.cuh"
#include "ops/attention/cuda_scores.cuh"

namespace pyllm::attention {

template <int kDim>
struct BackwardShape {
  static constexpr int kOwn = 16 * kWarps;
  static constexpr int kStep = kDim == 64 ? 64 : kDim == 256 ? 16 : 32;  // rows or keys of a tile walked over
  static constexpr int kColumns = kDim < 128 ? kDim : 128;               // of dK and dV a block sums
  static constexpr int kTiles = (2 * kOwn + 4 * kStep) * kDim;           // elements
  static constexpr int kBytes = 2 * kTiles + 4 * kStep * sizeof(float);  // and statistics of two row tiles
};

// A row's number in the arrays of statistics, which hold the rows of a tile side by side.
GPU_FN int64_t folded(const CudaForward& f, int64_t batch, int64_t head, int64_t token) {
  const int64_t group = f.heads / f.kv_heads;
  return ((batch * f.kv_heads + head / group) * f.q_len + token) * group + head % group;
}

struct Statistics {
  float *lse, *delta;  // lse of base 2, and 0 for a row that sees nothing
};

// blockDim.x lanes, a power of two, share a row of up to eight elements each.
template <class T>
__global__ void __launch_bounds__(kThreads) attention_deltas(const CudaBackward b, const Statistics to) {
  const CudaForward& f = b.forward;
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const int64_t token = row % f.q_len, head = row / f.q_len % f.heads, batch = row / f.q_len / f.heads;
  const int column = threadIdx.x * 8;
  const int64_t batches = f.q_borders.data ? 1 : f.sequences;
  float delta = 0;
  if (batch < batches && column < f.value_dim) {
    const auto read = [&](const Heads& x, float (&value)[8]) {
      const T* from = static_cast<const T*>(x.data) + batch * x.batch + head * x.head + token * x.token;
      gpu::to_floats(gpu::load<T, 8>(from + column), value);
    };
    float out[8], grad_out[8];
    read(f.out, out);
    read(b.grad_out, grad_out);
#pragma unroll
    for (int i = 0; i < 8; ++i) delta = fmaf(out[i], grad_out[i], delta);
  }
  for (int distance = blockDim.x / 2; distance > 0; distance /= 2) {
    delta += __shfl_xor_sync(gpu::kAllLanes, delta, distance);
  }
  if (batch >= batches || threadIdx.x > 0) return;
  const float lse = f.lse[row];
  const int64_t place = folded(f, batch, head, token);
  to.lse[place] = lse == -INFINITY ? 0.0f : lse * kLog2E;
  to.delta[place] = b.grad_lse ? delta - b.grad_lse[row] : delta;
}

// dP to (dP - delta) times softcap's derivative; s holds the capped scores.
template <int kFragments, class Delta>
GPU_FN void subtract_deltas(const CudaForward& f, const float (&s)[kFragments][4], const Delta& delta,
                            float (&d)[kFragments][4]) {
  const float inverse = 1.0f / (f.softcap * kLog2E);
#pragma unroll
  for (int i = 0; i < 4 * kFragments; ++i) {
    float& x = d[i / 4][i % 4];
    x -= delta(i / 4, i % 4);
    if (f.softcap > 0) {
      const float tanh = s[i / 4][i % 4] * inverse;
      x *= fmaf(-tanh, tanh, 1.0f);
    }
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads)
    attention_grad_q(const CudaBackward b, const Statistics statistics) {
  using Shape = BackwardShape<kDim>;
  constexpr int kOwn = Shape::kOwn, kKeys = Shape::kStep;
  GPU_DYNAMIC_SHARED(T, shared);
  T *const q_tile = shared, *const grad_tile = q_tile + kOwn * kDim, *const k_tiles = grad_tile + kOwn * kDim,
           *const v_tiles = k_tiles + 2 * kKeys * kDim;
  const CudaForward& f = b.forward;
  const int head_dim = static_cast<int>(f.head_dim), value_dim = static_cast<int>(f.value_dim);
  Work work;
  if (!find_work(f, blockIdx.x, kOwn, work)) return;
  const int group = static_cast<int>(f.heads / f.kv_heads), kv_head = blockIdx.y;
  const int rows_left = work.q_len * group - work.first_row;
  const auto row_of = [&](const Heads& x) {
    return [&](int r) { return query_row<T>(x, work, kv_head, group, work.first_row + r); };
  };
  const auto fetch_keys = [&](int tile, int buffer) {
    const auto key_of = [&](const Heads& x) {
      return [&, tile](int r) { return key_row<T>(x, work, kv_head, tile * kKeys + r); };
    };
    fetch_rows<kDim, kKeys>(k_tiles + buffer * kKeys * kDim, f.k.data, head_dim, key_of(f.k));
    fetch_rows<kDim, kKeys>(v_tiles + buffer * kKeys * kDim, f.v.data, value_dim, key_of(f.v));
    gpu::commit_copies();
  };

  RowPair rows[1];
  find_rows(work, kv_head, group, rows);
  float lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (rows[0].query[half] >= work.q_len) continue;
    const int64_t place = folded(f, work.batch, rows[0].head[half], work.first_query + rows[0].query[half]);
    lse[half] = statistics.lse[place];
    delta[half] = statistics.delta[place];
  }
  const Visible first = visible(f, work, work.first_row / group);
  const Visible last = visible(f, work, (work.first_row + min(kOwn, rows_left) - 1) / group);
  const KeyTiles tiles = key_tiles(first, last, kKeys);
  const SeenByAll seen = seen_by_all(first, last);
  const Scaling scaling = scaling_of(f);

  float sums[1][kDim / 8][4] = {};
  fetch_rows<kDim, kOwn>(q_tile, f.q.data, head_dim, row_of(f.q));
  fetch_rows<kDim, kOwn>(grad_tile, b.grad_out.data, value_dim, row_of(b.grad_out));
  if (tiles.first() < tiles.end) fetch_keys(tiles.first(), 0);
  int buffer = 0;
  for (int tile = tiles.first(), next; tile < tiles.end; tile = next, buffer ^= 1) {
    next = tiles.after(tile);
    gpu::wait_for_copies<0>();
    __syncthreads();
    if (next < tiles.end) fetch_keys(next, buffer ^ 1);
    const T *const k_tile = k_tiles + buffer * kKeys * kDim, *const v_tile = v_tiles + buffer * kKeys * kDim;
    float s[1][kKeys / 8][4] = {}, d[1][kKeys / 8][4] = {};
    multiply_transposed<kDim>(q_tile, k_tile, s);
    multiply_transposed<kDim>(grad_tile, v_tile, d);
    scale_scores(f, scaling.plain, s[0]);
    subtract_deltas(f, s[0], [&](int, int e) { return delta[e / 2]; }, d[0]);
    hide_scores(f, work, rows[0], seen.holds(tile * kKeys, (tile + 1) * kKeys), s[0],
                [&](int n, int e) -> int { return tile * kKeys + 8 * n + threadIdx.x % 4 * 2 + e; });
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) {
      d[0][i / 4][i % 4] *= gpu::exp2_fast(fmaf(s[0][i / 4][i % 4], scaling.multiplier, -lse[i % 4 / 2]));
    }
    add_product<kDim>(d, k_tile, 0, sums);
  }
  gpu::commit_copies();
  gpu::wait_for_copies<0>();  // without a tile of keys nobody has waited for the block's own
  __syncthreads();
  const float factor[1][2] = {{f.scale, f.scale}};
  store_strips<kDim>(q_tile, sums, factor, 0, head_dim, row_of(b.grad_q));
}

// hide_scores where fragments' rows are keys from `key` on, and their columns rows from `row` on.
template <int kFragments>
GPU_FN void hide_scores_of_keys(const CudaForward& f, const Work& work, int kv_head, int group, int row,
                                int key, bool full, float (&s)[kFragments][4]) {
  if (full && !f.alibi_slopes) return;
#pragma unroll
  for (int i = 0; i < 2 * kFragments; ++i) {
    const int mine = row + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2, query = mine / group;
    const Visible v = visible(f, work, query);
    const float slope = f.alibi_slopes ? f.alibi_slopes[kv_head * group + mine % group] * kLog2E : 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& x = s[i / 2][2 * half + i % 2];
      const int its_key = key + threadIdx.x % gpu::kWarp / 4 + 8 * half;
      if (f.alibi_slopes) x -= slope * static_cast<float>(abs(query + work.kv_len - work.q_len - its_key));
      if (!full && !sees(v, its_key)) x = -INFINITY;
    }
  }
}

// The row tiles of `size` rows, of which some see some of the keys [begin, end).
struct RowTiles {
  int rows, group, size, begin, end;
  GPU_FN int count() const { return (rows + size - 1) / size; }
  GPU_FN Visible first(const CudaForward& f, const Work& work, int tile) const {
    return visible(f, work, tile * size / group);
  }
  GPU_FN Visible last(const CudaForward& f, const Work& work, int tile) const {
    return visible(f, work, (min(rows, (tile + 1) * size) - 1) / group);
  }
  // The first tile from `tile` on that sees anything; count() if there is none.
  GPU_FN int from(const CudaForward& f, const Work& work, int tile) const {
    for (; tile < count(); ++tile) {
      if (see_some(first(f, work, tile), last(f, work, tile), begin, end)) break;
    }
    return tile;
  }
};

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads)
    attention_grad_kv(const CudaBackward b, const Statistics statistics) {
  using Shape = BackwardShape<kDim>;
  constexpr int kOwn = Shape::kOwn, kRows = Shape::kStep, kOutputs = Shape::kColumns / 8;
  GPU_DYNAMIC_SHARED(T, shared);
  T *const k_tile = shared, *const v_tile = k_tile + kOwn * kDim, *const q_tiles = v_tile + kOwn * kDim,
           *const grad_tiles = q_tiles + 2 * kRows * kDim;
  float *const lse_tiles = reinterpret_cast<float*>(shared + Shape::kTiles), *const delta_tiles =
                                                                                 lse_tiles + 2 * kRows;
  const CudaForward& f = b.forward;
  const int head_dim = static_cast<int>(f.head_dim), value_dim = static_cast<int>(f.value_dim);
  Work work;
  int first_key;
  if (!find_key_work(f, blockIdx.x, kOwn, work, first_key)) return;
  const int group = static_cast<int>(f.heads / f.kv_heads), kv_head = blockIdx.y;
  const int first_chunk = blockIdx.z * kOutputs;
  const int64_t statistics_start =
      folded(f, work.batch, int64_t{kv_head} * group, work.first_query);  // of the sequence's rows
  const RowTiles tiles = {work.q_len * group, group, kRows, first_key, min(first_key + kOwn, work.kv_len)};
  const auto key_of = [&](const Heads& x) {
    return [&](int r) { return key_row<T>(x, work, kv_head, first_key + r); };
  };
  const auto fetch_queries = [&](int tile, int buffer) {
    const auto row_of = [&](const Heads& x) {
      return [&, tile](int r) { return query_row<T>(x, work, kv_head, group, tile * kRows + r); };
    };
    fetch_rows<kDim, kRows>(q_tiles + buffer * kRows * kDim, f.q.data, head_dim, row_of(f.q));
    fetch_rows<kDim, kRows>(grad_tiles + buffer * kRows * kDim, b.grad_out.data, value_dim,
                            row_of(b.grad_out));
    if (threadIdx.x < 2 * kRows) {
      const int r = threadIdx.x % kRows, row = tile * kRows + r;
      const float* from = threadIdx.x < kRows ? statistics.lse : statistics.delta;
      const bool valid = row < tiles.rows;
      gpu::copy_async<4>((threadIdx.x < kRows ? lse_tiles : delta_tiles) + buffer * kRows + r,
                         from + (valid ? statistics_start + row : 0), valid);
    }
    gpu::commit_copies();
  };
  const Scaling scaling = scaling_of(f);
  const int key = first_key + threadIdx.x / gpu::kWarp * 16;

  float grad_k[1][kOutputs][4] = {}, grad_v[1][kOutputs][4] = {};
  fetch_rows<kDim, kOwn>(k_tile, f.k.data, head_dim, key_of(f.k));
  fetch_rows<kDim, kOwn>(v_tile, f.v.data, value_dim, key_of(f.v));
  int tile = tiles.from(f, work, 0), buffer = 0;
  if (tile < tiles.count()) fetch_queries(tile, 0);
  for (int next; tile < tiles.count(); tile = next, buffer ^= 1) {
    next = tiles.from(f, work, tile + 1);
    gpu::wait_for_copies<0>();
    __syncthreads();
    if (next < tiles.count()) fetch_queries(next, buffer ^ 1);
    const T *const q_tile = q_tiles + buffer * kRows * kDim, *const grad_tile =
                                                                 grad_tiles + buffer * kRows * kDim;
    // Of the column of element [n][e].
    const auto statistic = [&](const float* of_tiles, int n, int e) {
      return of_tiles[buffer * kRows + 8 * n + threadIdx.x % 4 * 2 + e % 2];
    };
    float s[1][kRows / 8][4] = {}, d[1][kRows / 8][4] = {};
    multiply_transposed<kDim>(k_tile, q_tile, s);
    multiply_transposed<kDim>(v_tile, grad_tile, d);
    scale_scores(f, scaling.plain, s[0]);
    subtract_deltas(f, s[0], [&](int n, int e) { return statistic(delta_tiles, n, e); }, d[0]);
    const SeenByAll seen = seen_by_all(tiles.first(f, work, tile), tiles.last(f, work, tile));
    hide_scores_of_keys(f, work, kv_head, group, tile * kRows, key, seen.holds(first_key, first_key + kOwn),
                        s[0]);
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      float& p = s[0][i / 4][i % 4];
      p = gpu::exp2_fast(fmaf(p, scaling.multiplier, -statistic(lse_tiles, i / 4, i % 4)));
      d[0][i / 4][i % 4] *= p;
    }
    add_product<kDim>(s, grad_tile, first_chunk, grad_v);
    add_product<kDim>(d, q_tile, first_chunk, grad_k);
  }
  gpu::commit_copies();
  gpu::wait_for_copies<0>();  // without a tile of rows nobody has waited for the block's own
  __syncthreads();
  const float scaled[1][2] = {{f.scale, f.scale}}, as_is[1][2] = {{1.0f, 1.0f}};
  store_strips<kDim>(k_tile, grad_k, scaled, first_chunk, head_dim, key_of(b.grad_k));
  store_strips<kDim>(v_tile, grad_v, as_is, first_chunk, value_dim, key_of(b.grad_v));
}

constexpr int kSinkThreads = 256;

__global__ void __launch_bounds__(kSinkThreads)
    attention_grad_sink(const CudaBackward b, const Statistics statistics) {
  GPU_SHARED(float, sums, gpu::kMostWarps);
  const CudaForward& f = b.forward;
  const int head = blockIdx.x;
  const int64_t rows = (f.q_borders.data ? 1 : f.sequences) * f.q_len;
  const float sink = f.sink_logits[head] * kLog2E;
  float sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += kSinkThreads) {
    const int64_t place = folded(f, row / f.q_len, head, row % f.q_len);
    sum = fmaf(gpu::exp2_fast(sink - statistics.lse[place]), -statistics.delta[place], sum);
  }
  sum = gpu::row_sum(sum, sums);
  if (threadIdx.x == 0) b.grad_sink[head] = sum;
}

}  // namespace pyllm::attention
