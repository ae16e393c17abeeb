// Attention to a paged cache, for few rows a sequence ("flash decoding", Dao et al., 2023). A page's layout
// (packed_kv.h) is that of the B fragments of mma.m16n8k16, so keys and values go from memory straight into
// registers, 8 bytes a lane, each once per 16 rows:
//
//   keys    16 a group, a row of 16 words per pair of d         lane 4 g + t: words 2 g, 2 g + 1 of rows t, t
//   + 4
//           fragment n, column g is key 2 g + n; a lane's scores of column 2 t + e are of key 4 t + 2 e + n
//   values  a row of words per pair of keys, 16 at a time       lane 4 g + t: words 2 g, 2 g + 1 of rows 2 t,
//   2 t + 1
//           fragment 2 b + n, column g is column 16 b + 2 g + n of the output
//
// A block owns 16 rows of a kv head and kSplit keys, which its warps take in turns by groups of 16; their
// sums meet in shared memory. attention_combine merges the splits from left to right. Splits are cut by
// position alone, so that a row's bits do not depend on its neighbours.
#pragma once

#include "ops/attention/cuda_paged.h"
#include "ops/attention/cuda_products.cuh"
#include "ops/attention/cuda_softmax.cuh"

namespace pyllm::attention {

constexpr int kPagedRows = 16, kSplit = 256, kGroup = static_cast<int>(kKeyGroup);

// Bytes of shared memory: the warps' sums, largest scores and denominators.
template <int kDim>
constexpr int kPagedBytes = kWarps * kPagedRows * (kDim + 2) * 4;

GPU_FN int splits_of(int64_t kv_len) { return static_cast<int>((kv_len + kSplit - 1) / kSplit); }

// What a split leaves of its rows: outputs of its keys alone, and their lse of base 2.
struct Partial {
  float *out, *lse;
  int splits;
  // The first of the kPagedRows rows of a block.
  GPU_FN int64_t row(int64_t tile, int64_t kv_heads, int64_t kv_head, int split) const {
    return ((tile * kv_heads + kv_head) * splits + split) * kPagedRows;
  }
};

// The page that holds key `key` of a sequence, for one head.
GPU_FN const void* page_of(const CudaPages& pages, int64_t sequence, int64_t kv_head, int64_t key) {
  const int64_t column = key / pages.layout.page_size;
  const int64_t page = clamp(at(pages.table, sequence * pages.columns + column), 0, pages.pages - 1);
  return static_cast<const uint16_t*>(pages.data) + page * pages.page_stride + kv_head * pages.head_stride;
}

GPU_FN uint2 load_words(const uint32_t* from) { return *reinterpret_cast<const uint2*>(from); }

// The scores of 16 rows with the group of keys that begins at `words`.
template <class T, int kDim>
GPU_FN void multiply_keys(const uint32_t (&q)[kDim / 16][4], const uint32_t* words, int depth,
                          float (&s)[2][4]) {
  const int lane = threadIdx.x % gpu::kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int c = 0; c < kDim / 16; ++c) {
    if (16 * c >= depth) continue;
    const uint2 low = load_words(words + (8 * c + t) * kGroup + 2 * g);
    const uint2 high = load_words(words + (8 * c + 4 + t) * kGroup + 2 * g);
    gpu::mma<T>(s[0], q[c], low.x, high.x);
    gpu::mma<T>(s[1], q[c], low.y, high.y);
  }
}

// Leaves only those of a word's two keys that come before the end.
GPU_FN uint32_t before(uint32_t word, int keys_left) {
  return keys_left >= 2 ? word : keys_left == 1 ? word & 0xffffu : 0u;
}

// o += P V for the group whose values begin at `words`; what lies past `keys_left` keys may be anything.
template <class T, int kDim>
GPU_FN void multiply_values(const float (&p)[2][4], const uint32_t* words, int width, int keys_left,
                            float (&o)[kDim / 8][4]) {
  const int lane = threadIdx.x % gpu::kWarp, g = lane / 4, t = lane % 4;
  uint32_t a[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int e = i % 2 * 2 + i / 2;
    a[i] = gpu::pack<T>(p[0][e], p[1][e]);
  }
#pragma unroll
  for (int b = 0; b < kDim / 16; ++b) {
    if (16 * b >= width) continue;
    uint2 first = load_words(words + 2 * t * width + 16 * b + 2 * g);
    uint2 second = load_words(words + (2 * t + 1) * width + 16 * b + 2 * g);
    if (keys_left < kGroup) {
      const int left = keys_left - 4 * t;
      first = {before(first.x, left), before(first.y, left)};
      second = {before(second.x, left - 2), before(second.y, left - 2)};
    }
    gpu::mma<T>(o[2 * b], a, first.x, second.x);
    gpu::mma<T>(o[2 * b + 1], a, first.y, second.y);
  }
}

// The A fragments of a tile's 16 rows.
template <class T, int kDim>
GPU_FN void load_queries(const CudaForward& f, const Work& work, int kv_head, int group,
                         uint32_t (&q)[kDim / 16][4]) {
  const int lane = threadIdx.x % gpu::kWarp, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const T* row = query_row<T>(f.q, work, kv_head, group, work.first_row + lane / 4 + 8 * half);
#pragma unroll
    for (int c = 0; c < kDim / 8; ++c) {
      const int d = 8 * c + 2 * t;
      uint32_t word = 0;
      if (row && d < f.head_dim) word = *reinterpret_cast<const uint32_t*>(row + d);
      q[c / 2][c % 2 * 2 + half] = word;
    }
  }
}

// Merges what the warps of a block left in shared memory, and stores it.
template <int kDim>
GPU_FN void store_partial(const float* sums, const float* largest, const float* denominators, int value_dim,
                          const Partial& to, int64_t first_row) {
  for (int i = threadIdx.x; i < kPagedRows * value_dim; i += kThreads) {
    const int row = i / value_dim, column = i % value_dim;
    float base = largest[row], out = 0, denominator = 0;
    for (int warp = 1; warp < kWarps; ++warp) base = fmaxf(base, largest[warp * kPagedRows + row]);
    for (int warp = 0; warp < kWarps && base > -INFINITY; ++warp) {
      const int place = warp * kPagedRows + row;
      const float weight = gpu::exp2_fast(largest[place] - base);
      out = fmaf(weight, sums[place * kDim + column], out);
      denominator = fmaf(weight, denominators[place], denominator);
    }
    to.out[(first_row + row) * value_dim + column] = base == -INFINITY ? 0.0f : out / denominator;
    if (column == 0) to.lse[first_row + row] = base + log2f(denominator);
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads) attention_paged(const CudaPaged p, const Partial to) {
  GPU_DYNAMIC_SHARED(float, sums);
  float *const largest = sums + kWarps * kPagedRows * kDim, *const denominators =
                                                                largest + kWarps * kPagedRows;
  const CudaForward& f = p.forward;
  const PageLayout& layout = p.pages.layout;
  Work work;
  if (!find_work(f, blockIdx.x, kPagedRows, work)) return;
  const int group = static_cast<int>(f.heads / f.kv_heads), kv_head = blockIdx.y, split = blockIdx.z;
  const int end = min((split + 1) * kSplit, work.kv_len);
  if (split * kSplit >= end) return;
  const int warp = threadIdx.x / gpu::kWarp, lane = threadIdx.x % gpu::kWarp;
  const int rows_left = work.q_len * group - work.first_row;
  const Visible first = visible(f, work, work.first_row / group);
  const Visible last = visible(f, work, (work.first_row + min(kPagedRows, rows_left) - 1) / group);
  const SeenByAll seen = seen_by_all(first, last);
  const Scaling scaling = scaling_of(f);

  RowPair rows;
  RowSums softmax;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = work.first_row + lane / 4 + 8 * half;
    rows.query[half] = row / group;
    rows.head[half] = kv_head * group + row % group;
  }
  uint32_t q[kDim / 16][4];
  load_queries<T, kDim>(f, work, kv_head, group, q);
  float o[kDim / 8][4] = {};
  for (int key = split * kSplit + warp * kGroup; key < end; key += kWarps * kGroup) {
    if (!see_some(first, last, key, key + kGroup)) continue;
    const uint32_t* page = static_cast<const uint32_t*>(page_of(p.pages, work.sequence, kv_head, key));
    const int in_page = key % static_cast<int>(layout.page_size);
    float s[2][4] = {};
    multiply_keys<T, kDim>(q, page + layout.key_group(in_page) / 2, static_cast<int>(layout.key_depth), s);
    scale_scores(f, scaling.plain, s);
    hide_scores(f, work, rows, seen.holds(key, key + kGroup), s,
                [&](int n, int e) { return key + lane % 4 * 4 + 2 * e + n; });
    add_to_softmax(softmax, scaling.multiplier, s, o);
    multiply_values<T, kDim>(s, page + layout.value_row(in_page) / 2, static_cast<int>(layout.value_width),
                             end - key, o);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int place = warp * kPagedRows + lane / 4 + 8 * half;
    const float sum = quad_sum(softmax.sum[half]);
    largest[place] = softmax.largest[half];
    denominators[place] = sum;
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) {
      const int column = i / 4 * 16 + lane % 4 * 4 + i % 2 * 2 + i / 2 % 2;
      sums[place * kDim + column] = o[i / 2][2 * half + i % 2];
    }
  }
  __syncthreads();
  store_partial<kDim>(sums, largest, denominators, static_cast<int>(f.value_dim), to,
                      to.row(blockIdx.x, f.kv_heads, kv_head, split));
}

// A block per 16 rows of a kv head, as above.
template <class T>
__global__ void __launch_bounds__(kThreads) attention_combine(const CudaForward f, const Partial from) {
  Work work;
  if (!find_work(f, blockIdx.x, kPagedRows, work)) return;
  const int group = static_cast<int>(f.heads / f.kv_heads), kv_head = blockIdx.y;
  const int value_dim = static_cast<int>(f.value_dim), splits = splits_of(work.kv_len);
  const int64_t first_row = from.row(blockIdx.x, f.kv_heads, kv_head, 0);
  for (int i = threadIdx.x; i < kPagedRows * value_dim; i += kThreads) {
    const int row = work.first_row + i / value_dim, column = i % value_dim;
    T* const out = query_row<T>(f.out, work, kv_head, group, row);
    if (!out) break;
    const int head = kv_head * group + row % group;
    const auto place = [&](int split) { return first_row + split * kPagedRows + i / value_dim; };
    const float sink = f.sink_logits ? f.sink_logits[head] * kLog2E : -INFINITY;
    float base = sink;
    for (int split = 0; split < splits; ++split) base = fmaxf(base, from.lse[place(split)]);
    const float finite = base == -INFINITY ? 0.0f : base;
    float sum = gpu::exp2_fast(sink - finite), value = 0;
    for (int split = 0; split < splits; ++split) {
      const float weight = gpu::exp2_fast(from.lse[place(split)] - finite);
      sum += weight;
      value = fmaf(weight, from.out[place(split) * value_dim + column], value);
    }
    out[column] = gpu::from_float<T>(sum == 0.0f ? 0.0f : value / sum);
    if (column == 0) {
      f.lse[(work.batch * f.heads + head) * f.q_len + work.first_query + row / group] =
          (finite + log2f(sum)) * kLn2;
    }
  }
}

// A block writes a token. Elements go as bits: a token's lie apart, between those of its neighbours.
__global__ void __launch_bounds__(kThreads) attention_write_kv(const CudaWriteKv w) {
  const PageLayout& layout = w.pages.layout;
  const int64_t token = blockIdx.x, position = at(w.positions, token);
  if (position < 0 || position >= w.pages.columns * layout.page_size) return;
  int64_t sequence = token / w.q_len;
  if (w.q_borders.data) {
    sequence = 0;
    while (sequence + 1 < w.sequences && token >= at(w.q_borders, sequence + 1)) ++sequence;
  }
  const int64_t page = at(w.pages.table, sequence * w.pages.columns + position / layout.page_size);
  if (page < 0 || page >= w.pages.pages) return;
  const int64_t batch = token / w.q_len, row = token % w.q_len, slot = position % layout.page_size;
  const int depth = static_cast<int>(layout.key_depth), width = static_cast<int>(layout.value_width);
  for (int i = threadIdx.x; i < static_cast<int>(w.kv_heads) * (depth + width); i += kThreads) {
    const int head = i / (depth + width), place = i % (depth + width);
    const bool key = place < depth;
    const int64_t d = key ? place : place - depth;
    const Heads& x = key ? w.k : w.v;
    const uint16_t* from =
        static_cast<const uint16_t*>(x.data) + batch * x.batch + head * x.head + row * x.token;
    uint16_t* to =
        static_cast<uint16_t*>(w.pages.data) + page * w.pages.page_stride + head * w.pages.head_stride;
    to[key ? layout.key_at(slot, d) : layout.value_at(slot, d)] =
        d < (key ? layout.head_dim : layout.value_dim) ? from[d] : uint16_t{0};
  }
}

}  // namespace pyllm::attention
