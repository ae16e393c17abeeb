// Sums of one chunk for int8.h: integers, and integers that meet their scales.
#pragma once

#include "ops/quantized_linear/byte_dots.h"

namespace pyllm::quantized_linear {
namespace {

// Scales of one sum: of 16 outputs.
struct SumScales {
  const float* scale;
  const float* minimum;  // or null
  int32_t center;
};

[[maybe_unused]] inline SumScales scales_of(const Scaling& by, int64_t sum, int32_t offset) {
  return {by.scales->scale[sum], by.minimums ? by.scales->minimum[sum] : nullptr,
          static_cast<int32_t>(by.center) + offset};
}

// out (16) += scale * (scale of x * (sums - center * total)) - minimum * scale of x * total
inline PYLLM_INLINE void add_sum(const SumScales& by, const SignedWords (&sums)[kVecs], int32_t total,
                                 float scale_x, float* out) {
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    float* to = out + v * kLanes;
    const Vec t = set1(scale_x) * float_of(sums[v] - total * by.center);
    Vec y = fma(load(by.scale + v * kLanes), t, load(to));
    if (by.minimum) {
      y = fma(load(by.minimum + v * kLanes), set1(-(scale_x * static_cast<float>(total))), y);
    }
    store(to, y);
  }
}

// out (Rows x 16) += one chunk. source_at(unit): its codes. Most: see byte_dots.h.
template <class Dots, int Most, int SumQuads, int Rows, class SourceAt>
inline PYLLM_INLINE void add_scaled_tile(const SourceAt& source_at, int64_t units, const Scaling& by,
                                         const ByteChunk* x, float* out) {
  constexpr int kSums = kQuads / SumQuads;
  const int shift = kSums == 1 ? __builtin_ctzll(static_cast<uint64_t>(by.sum_units)) : 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    const auto source = source_at(unit);
    unrolled<kSums>([&]<int Part>() PYLLM_INLINE {
      SignedWords sums[Rows][kVecs] = {};
      const ByteRows rows = {x->bytes + unit * kInputs, sizeof(ByteChunk)};
      Dots::template add<Most, Part * SumQuads, SumQuads>(source, rows, sums);
      const int64_t sum = unit * kSums + Part;
      const SumScales scales = scales_of(by, sum >> shift, Most == 0 ? Dots::kOffset : 0);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const int32_t total = kSums == 2 ? x[r].sums[sum] : x[r].sums[2 * unit] + x[r].sums[2 * unit + 1];
        add_sum(scales, sums[r], total, x[r].scales[unit], out + r * kOutputs);
      }
    });
  }
}

// integers (Rows x 16) += one chunk.
template <class Dots, int Most, int Rows, class SourceAt>
inline PYLLM_INLINE void add_integer_tile(const SourceAt& source_at, int64_t units, const ByteChunk* x,
                                          int32_t* integers) {
  SignedWords sums[Rows][kVecs];
  __builtin_memcpy(sums, integers, sizeof sums);
  for (int64_t unit = 0; unit < units; ++unit) {
    const ByteRows rows = {x->bytes + unit * kInputs, sizeof(ByteChunk)};
    Dots::template add<Most, 0, kQuads>(source_at(unit), rows, sums);
  }
  __builtin_memcpy(integers, sums, sizeof sums);
}

}  // namespace
}  // namespace pyllm::quantized_linear
