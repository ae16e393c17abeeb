// The online softmax of a strip of rows, in base 2, as accumulators hold scores and outputs: four lanes share
// a row (core/gpu_ptx.h), and two shuffles sum it up.
#pragma once

#include "ops/attention/cuda_scores.cuh"

namespace pyllm::attention {

GPU_FN float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(gpu::kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(gpu::kAllLanes, x, 2));
}
GPU_FN float quad_sum(float x) {
  x += __shfl_xor_sync(gpu::kAllLanes, x, 1);
  return x + __shfl_xor_sync(gpu::kAllLanes, x, 2);
}

// The softmax of a strip's two rows so far.
struct RowSums {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
};

// Scores to weights under the rows' new maxima; what was summed before is rescaled. `multiplier` is positive.
template <int kFragments, int kOutputs>
GPU_FN void add_to_softmax(RowSums& rows, float multiplier, float (&s)[kFragments][4],
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
GPU_FN float finish_row(const CudaForward& f, const RowSums& rows, int half, int head, float& lse) {
  float sum = quad_sum(rows.sum[half]), base = rows.largest[half], factor = 1.0f;
  if (f.sink_logits) {
    const float sink = f.sink_logits[head] * kLog2E;
    base = fmaxf(base, sink);
    factor = gpu::exp2_fast(rows.largest[half] - base);
    sum = sum * factor + gpu::exp2_fast(sink - base);
  }
  lse = (base + log2f(sum)) * kLn2;
  return sum == 0.0f ? 0.0f : factor / sum;
}

}  // namespace pyllm::attention
