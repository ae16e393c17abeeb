// From dot products to logits of base 2, as accumulators hold them: a lane has columns t, t + 1 of rows g and
// g
// + 8 of each fragment (core/gpu_ptx.h), rows being those of queries and columns keys.
#pragma once

#include "core/gpu.h"
#include "core/gpu_ptx.h"
#include "ops/attention/cuda_geometry.cuh"

namespace pyllm::attention {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// tanh on the exponential unit: its error of 2^-21 is far below a 16-bit score's own.
GPU_FN float tanh_fast(float x) { return 1.0f - 2.0f / (1.0f + gpu::exp2_fast(2.0f * kLog2E * x)); }

// Two rows of a strip, eight apart, as a lane has them.
struct RowPair {
  int query[2], head[2];
};

template <int kStrips>
GPU_FN void find_rows(const Work& work, int kv_head, int group, RowPair (&rows)[kStrips]) {
  const int warp = threadIdx.x / gpu::kWarp, lane = threadIdx.x % gpu::kWarp;
#pragma unroll
  for (int i = 0; i < 2 * kStrips; ++i) {
    const int row = work.first_row + (warp * kStrips + i / 2) * 16 + lane / 4 + i % 2 * 8;
    rows[i / 2].query[i % 2] = row / group;
    rows[i / 2].head[i % 2] = kv_head * group + row % group;
  }
}

// What turns a dot product into a logit of base 2, but for ALiBi and the mask. Without softcap and ALiBi the
// scale is left to the exponential, as `multiplier`.
struct Scaling {
  bool plain;
  float multiplier;
};
GPU_FN Scaling scaling_of(const CudaForward& f) {
  const bool plain = f.softcap == 0 && !f.alibi_slopes && f.scale > 0;
  return {plain, plain ? f.scale * kLog2E : 1.0f};
}

template <int kFragments>
GPU_FN void scale_scores(const CudaForward& f, bool plain, float (&s)[kFragments][4]) {
  if (f.softcap > 0) {
    const float inner = f.scale / f.softcap, outer = f.softcap * kLog2E;
#pragma unroll
    for (int i = 0; i < 4 * kFragments; ++i) s[i / 4][i % 4] = outer * tanh_fast(inner * s[i / 4][i % 4]);
  } else if (!plain) {
#pragma unroll
    for (int i = 0; i < 4 * kFragments; ++i) s[i / 4][i % 4] *= f.scale * kLog2E;
  }
}

// Then ALiBi is taken off, and hidden scores become -infinity; `full` says that there are none. key(n, e) is
// the key of element e of fragment n.
template <int kFragments, class Key>
GPU_FN void hide_scores(const CudaForward& f, const Work& work, const RowPair& rows, bool full,
                        float (&s)[kFragments][4], const Key& key) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int position = rows.query[half] + work.kv_len - work.q_len;
    if (f.alibi_slopes) {
      const float slope = f.alibi_slopes[rows.head[half]] * kLog2E;
#pragma unroll
      for (int i = 0; i < 2 * kFragments; ++i) {
        s[i / 2][2 * half + i % 2] -= slope * static_cast<float>(abs(position - key(i / 2, i % 2)));
      }
    }
    if (full) continue;
    const Visible v = visible(f, work, rows.query[half]);
    const int head = static_cast<int>(v.head), low = static_cast<int>(v.low), high = static_cast<int>(v.high);
#pragma unroll
    for (int i = 0; i < 2 * kFragments; ++i) {
      const int its_key = key(i / 2, i % 2);
      const bool seen = its_key < head || (its_key >= low && its_key < high);
      if (!seen) s[i / 2][2 * half + i % 2] = -INFINITY;
    }
  }
}

}  // namespace pyllm::attention
